-- What popproxy asks of Redis or Valkey: one script, so that either all of it is known to a server or none.
--
-- KEYS[1] is the hash of owners: owner -> the end of its lease by this clock, its epoch, and the length of the lease. The
-- other keys follow in the order in which they are used. ARGV[1] is what to do (a letter), ARGV[2] the owner, ARGV[3] its epoch.
--   "r": ARGV[4] holds the steps, packed by codec.py; KEYS are their keys. Returns the results, packed.
--   "k", "b", "s", "g": make the owner known, count it as alive, only tell what it holds, let it go. ARGV[4] is the length
--        of a lease in seconds, ARGV[5] that of a key of leases in milliseconds, then how many places the owner holds at
--        each of KEYS[2..]. Returns a word.
-- An owner has a new epoch with each connection, and tells all that it holds when it is made known: what it held before
-- is void from then on, whether this server is the same as before, was restarted with old data, or was a replica. And
-- what was on its way when the connection broke, and comes late, changes nothing.
-- The arithmetic of windows is that of popproxy/state/windows.py, operation by operation.

local call, floor, fmod, max, min = redis.call, math.floor, math.fmod, math.max, math.min
local pack, unpacked = struct.pack, struct.unpack
local SMALL, LONGEST_LIFE = 1e-6, 10 * 366 * 86400

local clock = call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local owners, what, me, epoch = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local mine = me .. ':' .. ARGV[3]  -- our field in a hash of leases

local function milliseconds(seconds)
  return string.format('%.0f', max(1, math.ceil(seconds * 1000)))
end

local function keep(key, life)  -- for so long at least: others may have longer leases
  if call('PTTL', key) < tonumber(life) then
    call('PEXPIRE', key, life)
  end
end

local function standing(owner)  -- the end and the epoch of an owner, nothing when it is unknown
  local record = call('HGET', owners, owner)
  if record then
    return unpacked('<ddd', record)
  end
end

local alive = {}  -- field -> true or false, as far as asked
local function lives(field)
  if alive[field] == nil then
    local owner, number = string.match(field, '^(.*):(%d+)$')
    local ends, current = standing(owner or field)
    alive[field] = ends ~= nil and ends > now and current == tonumber(number)
  end
  return alive[field]
end

if what ~= 'r' then
  local _, current = standing(me)
  if current and current > epoch then
    return 'late'
  end
  if (what == 'b' or what == 's') and not lives(mine) then
    return 'unknown'
  end
  for i = 2, #KEYS do
    local places = ARGV[4 + i]
    if places == '0' then
      call('HDEL', KEYS[i], mine)
    else
      call('HSET', KEYS[i], mine, places)
      keep(KEYS[i], ARGV[5])
    end
  end
  if what == 'g' then
    call('HDEL', owners, me)
  elseif what ~= 's' then
    local lease = tonumber(ARGV[4])
    call('HSET', owners, me, pack('<ddd', now + lease, epoch, lease))
    local all = call('HGETALL', owners)
    for i = 1, #all, 2 do
      local last, number, length = unpacked('<ddd', all[i + 1])
      if last <= now then
        call('HDEL', owners, all[i])
      elseif last > now + length then
        -- A clock that went back lets nobody live on for longer than a lease.
        call('HSET', owners, all[i], pack('<ddd', now + length, number, length))
      end
    end
    keep(owners, milliseconds(lease * 2))
  end
  return 'ok'
end

-- Windows: a level is count, before, at, for a kind and a length whatever the limit. Kinds: 0 fixed, 1 sliding, 2 token bucket.

local function period(seconds)
  local div = (now - fmod(now, seconds)) / seconds
  local whole = floor(div)
  if div - whole > 0.5 then
    whole = whole + 1
  end
  return whole
end

local function ends(step, count, at)
  if step.kind == 0 then
    return (at + 1) * step.seconds
  end
  if step.kind == 1 then
    return (at + 2) * step.seconds
  end
  local windows = step.limit > 0 and max(1, count / step.limit) or 1
  return at + min(LONGEST_LIFE, windows * step.seconds)
end

local function moved(step)
  local count, before, at
  local stored = call('GET', step.key)
  if stored and #stored == 41 then
    -- By the limit of who wrote it, which may be another one than ours.
    local kind, last, seconds, c, b, a = unpacked('<Bddddd', stored)
    if kind == step.kind and seconds == step.seconds and last > now then
      count, before, at = c, b, a
    end
  end
  if step.kind == 2 then
    if not count then
      return 0, 0, now
    end
    if at > now then
      if at - now <= step.seconds then
        return count, before, at
      end
      return count, 0, now
    end
    return max(0, count - (now - at) * step.limit / step.seconds), 0, now
  end
  local current = period(step.seconds)
  if not count then
    return 0, 0, current
  end
  if at - 1 <= current and current <= at then
    return count, before, at
  end
  if current < at then
    return count, before, current
  end
  if current == at + 1 then
    return 0, count, current
  end
  return 0, 0, current
end

local function used(step, count, before, at)
  if step.kind == 1 then
    return count + before * (1 - min(1, max(0, now / step.seconds - at)))
  end
  return count
end

local function shown(step, count, before, at)
  return math.ceil(used(step, count, before, at) - SMALL)
end

local function wait(step, count, before, at)
  if step.amount > step.limit or step.limit == 0 then
    return math.huge
  end
  if step.kind == 2 then
    return at - now + (count + step.amount - step.limit) * step.seconds / step.limit
  end
  local left = (at + 1) * step.seconds - now
  if step.kind == 0 then
    return left
  end
  local free = step.limit - step.amount
  if count <= free then
    return left - (free - count) / before * step.seconds
  end
  return left + (1 - free / count) * step.seconds
end

-- Leases: the places of owners that are dead are no places.

local function places(key)
  local all = call('HGETALL', key)
  local sum = 0
  for i = 1, #all, 2 do
    if lives(all[i]) then
      sum = sum + tonumber(all[i + 1])
    else
      call('HDEL', key, all[i])
    end
  end
  return sum
end

-- Read the steps.

local blob, at, nextkey = ARGV[4], 1, 2

local function read(format)
  local from = at
  at = at + struct.size(format)
  return unpacked(format, blob, from)
end

local function bytes()
  local length = read('<I4')
  at = at + length
  return string.sub(blob, at - length, at - 1)
end

local function key()
  nextkey = nextkey + 1
  return KEYS[nextkey - 1]
end

local life = milliseconds(read('<d'))
local steps, leases = {}, false
while at <= #blob do
  local step = {op = read('<B'), key = key()}
  if step.op == 2 then
    step.seconds, step.absent = read('<dB')
    step.value = bytes()
  elseif step.op == 3 then
    step.marks = key()
  elseif step.op == 4 then
    step.seconds, step.most, step.some = read('<ddB')
    step.member = bytes()
  elseif step.op == 5 then
    step.kind, step.limit, step.seconds, step.amount, step.mode = read('<BdddB')
  elseif step.op == 6 then
    step.limit, step.mode = read('<dB')
    leases = true
  end
  steps[#steps + 1] = step
end

if leases and not lives(mine) then
  return pack('<Bd', 2, now)
end

-- Is there room for all that must be claimed? Then claim, then do the rest in order.

local granted = true
for _, step in ipairs(steps) do
  if step.op == 5 then
    step.count, step.before, step.at = moved(step)
    step.used = shown(step, step.count, step.before, step.at)
    step.ok = used(step, step.count, step.before, step.at) + step.amount <= step.limit + SMALL
    step.wait = step.ok and 0 or wait(step, step.count, step.before, step.at)
  elseif step.op == 6 then
    step.used = places(step.key)
    step.ok = step.used < step.limit
  end
  if step.ok == false and step.mode == 0 then
    granted = false
  end
end

local results = {pack('<Bd', granted and 1 or 0, now)}
for _, step in ipairs(steps) do
  local result
  if step.op == 1 then
    local value = call('GET', step.key)
    result = value and pack('<I4', #value + 1) .. value or pack('<I4', 0)
  elseif step.op == 2 then
    local set
    if step.absent == 1 then
      set = call('SET', step.key, step.value, 'PX', milliseconds(step.seconds), 'NX')
    else
      set = call('SET', step.key, step.value, 'PX', milliseconds(step.seconds))
    end
    result = pack('<B', set and 1 or 0)
  elseif step.op == 3 then
    call('ZREMRANGEBYSCORE', step.marks, '-inf', string.format('%.17g', now))
    result = pack('<B', call('DEL', step.key, step.marks) > 0 and 1 or 0)
  elseif step.op == 4 then
    call('ZREMRANGEBYSCORE', step.key, '-inf', string.format('%.17g', now))
    if step.some == 1 then
      call('ZADD', step.key, string.format('%.17g', now + step.seconds), step.member)
    end
    local count = call('ZCARD', step.key)
    if step.some == 1 and count > step.most then
      call('ZPOPMIN', step.key, string.format('%.0f', count - step.most))
      count = step.most
    end
    if count > 0 then
      local last = call('ZREVRANGE', step.key, 0, 0, 'WITHSCORES')
      call('PEXPIRE', step.key, milliseconds(tonumber(last[2]) - now))
    end
    result = pack('<d', count)
  elseif step.op == 5 then
    local taken = step.amount > 0 and (step.mode == 2 or (granted and step.ok))
    if taken then
      step.count = step.count + step.amount
      local last = ends(step, step.count, step.at)
      call('SET', step.key, pack('<Bddddd', step.kind, last, step.seconds, step.count, step.before, step.at),
        'PX', milliseconds(last - now))
      step.used = shown(step, step.count, step.before, step.at)
    end
    result = pack('<Bdd', (step.ok and 1 or 0) + (taken and 2 or 0), step.used, step.wait)
  else
    local taken = step.mode == 2 or (granted and step.ok)
    if taken then
      call('HINCRBY', step.key, mine, 1)
      keep(step.key, life)
      step.used = step.used + 1
    end
    result = pack('<Bd', (step.ok and 1 or 0) + (taken and 2 or 0), step.used)
  end
  results[#results + 1] = result
end
return table.concat(results)
