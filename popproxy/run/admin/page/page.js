// What /v1/events tells, once a second. All text goes in as text: a user name is never markup.
"use strict";

const KEPT = 120; // ticks in the small curves
const SILENT = 5000; // milliseconds without a tick until the page says so
const AGAIN = 2000; // milliseconds between two attempts

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const number = (value) => (value < 100 ? fine : whole).format(value);
const octets = (value) => {
  const units = ["B/s", "KiB/s", "MiB/s", "GiB/s"];
  let at = 0;
  for (; value >= 1024 && at < units.length - 1; at++) value /= 1024;
  return `${number(value)} ${units[at]}`;
};

const TILES = [
  { name: "Sessions", value: (tick) => tick.sessions, show: whole.format, more: (tick) => counted(tick.states) },
  { name: "Logins", value: (tick) => tick.rates.logins, show: perSecond },
  { name: "Failed logins", value: (tick) => tick.rates.login_failures, show: perSecond },
  { name: "Connections", value: (tick) => tick.rates.connections, show: perSecond },
  { name: "Refused", value: (tick) => tick.rates.rejected, show: perSecond },
  { name: "Commands", value: (tick) => tick.rates.commands, show: perSecond },
  { name: "Messages", value: (tick) => tick.rates.messages, show: perSecond },
  { name: "To clients", value: (tick) => tick.rates.octets_out, show: octets },
  { name: "From clients", value: (tick) => tick.rates.octets_in, show: octets },
];

const STATES = { ready: "good", reloading: "warn", starting: "warn", draining: "warn" };
const SERVERS = { up: "good", drained: "warn", trial: "warn" };
const EVENTS = {
  login_failed: "login failed", refused: "refused", tls_failed: "TLS failed", session: "ended by policy",
};

const $ = (id) => document.getElementById(id);

function perSecond(value) {
  return `${number(value)} /s`;
}

function counted(counts) {
  return Object.entries(counts).filter(([, count]) => count > 0).map(([name, count]) => `${count} ${name}`).join(", ");
}

function element(name, text = "", kind = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function makeTiles() {
  for (const tile of TILES) {
    const box = element("div");
    tile.shown = element("dd", "", "value");
    tile.below = element("dd", "", "more");
    const curve = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    curve.setAttribute("viewBox", `0 0 ${KEPT - 1} 20`);
    curve.setAttribute("preserveAspectRatio", "none");
    curve.setAttribute("aria-hidden", "true");
    tile.line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    curve.append(tile.line);
    tile.past = [];
    const drawn = element("dd");
    drawn.append(curve);
    box.append(element("dt", tile.name), tile.shown, tile.below, drawn);
    $("tiles").append(box);
  }
}

function showTile(tile, tick) {
  const value = tile.value(tick);
  tile.past = [...tile.past, value].slice(-KEPT);
  tile.shown.textContent = tile.show(value);
  tile.below.textContent = tile.more ? tile.more(tick) : `at most ${tile.show(Math.max(...tile.past))}`;
  const most = Math.max(...tile.past) || 1;
  const first = KEPT - tile.past.length;
  const points = tile.past.map((one, at) => `${first + at},${19 - (18 * one) / most}`);
  tile.line.setAttribute("points", points.join(" "));
}

function showUpstreams(upstreams) {
  $("upstreams").replaceChildren(...upstreams.map((upstream) => {
    const row = element("tr");
    const servers = element("td");
    Object.entries(upstream.servers).forEach(([state, count], at) => {
      if (at) servers.append(", ");
      servers.append(element("span", `${count} ${state}`, SERVERS[state] || "bad"));
    });
    row.append(
      element("td", upstream.name), servers, element("td", whole.format(upstream.sessions), "number"),
      element("td", whole.format(upstream.waiting), "number"),
    );
    return row;
  }));
}

function showDenials(denials) {
  $("nobody").hidden = denials.length > 0;
  $("denials").replaceChildren(...denials.map((one) => {
    const line = element("li");
    const time = element("time", new Date(one.time * 1000).toLocaleTimeString());
    time.dateTime = new Date(one.time * 1000).toISOString();
    const why = [one.reason, one.detail].filter(Boolean).join(": ");
    line.append(time, element("span", EVENTS[one.event] || one.event, "bad"), ` ${one.user || ""} from ${one.client}`);
    line.append(" ", element("span", why, "quiet"));
    return line;
  }));
}

function show(tick) {
  $("shown").hidden = false;
  $("access").hidden = true;
  const missing = tick.missing.length ? `, no word from worker ${tick.missing.join(", ")}` : "";
  say(tick.state + missing, missing ? "bad" : STATES[tick.state] || "bad");
  $("time").textContent = new Date(tick.time * 1000).toLocaleString();
  for (const tile of TILES) showTile(tile, tick);
  showUpstreams(tick.upstreams);
  showDenials(tick.denials);
}

function say(text, kind) {
  $("state").textContent = text;
  $("state").className = `badge ${kind}`;
}

// EventSource cannot send a token, so the stream is read by hand.
async function read(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let silence;
  let rest = "";
  try {
    for (;;) {
      clearTimeout(silence);
      silence = setTimeout(() => say("silent: these are old figures", "bad"), SILENT);
      const { value, done } = await reader.read();
      if (done) return;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
        if (data.length) show(JSON.parse(data.join("\n")));
      }
    }
  } finally {
    clearTimeout(silence);
  }
}

async function watch() {
  for (;;) {
    const token = sessionStorage.getItem("token");
    try {
      const response = await fetch("/v1/events", { headers: token ? { Authorization: `Bearer ${token}` } : {} });
      if (response.status === 401) {
        sessionStorage.removeItem("token");
        $("shown").hidden = true;
        $("access").hidden = false;
        say(token ? "this token is wrong" : "locked", token ? "bad" : "warn");
        return;
      }
      if (response.ok) await read(response);
      else say((await response.json()).error, "bad");
      if (response.ok) say("the connection ended", "bad");
    } catch (error) {
      say("popproxy does not answer", "bad");
    }
    await new Promise((resolve) => setTimeout(resolve, AGAIN));
  }
}

$("access").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value);
  $("token").value = "";
  watch();
});
makeTiles();
watch();
