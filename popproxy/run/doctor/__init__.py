"""``popproxy doctor``: connects to an upstream as a client would, and says in words what is wrong and what to do.

Each room looks at one thing: names (DNS), connecting (TCP), tls, greeting, abilities (CAPA), login, maildrop, clock.
They speak POP3 by the dialogues of core/, so that the doctor chooses mechanisms and reads refusals as the proxy does.
Law: nothing is retrieved or deleted, no secret is shown, none is sent where the config does not send it: not before
TLS that the URL asks for, not to a server whose certificate is not good.
"""
