-- take: moves entries that their consumer stopped renewing to the caller; the claim counts as a delivery.
--
-- KEYS  1 stream  2 S:groups
-- ARGV  1 group  2 group, escaped  3 consumer  4 least idle time, ms  5 cursor  6 most entries
--       7 latest acceptable server time, ms  8 random part of the claims token
--       9 what the fields of alone.lua's notes begin with
-- Returns {'clock', now_ms} if the server's clock is beyond what the caller accepts: nothing was claimed; else
--       {'ok', now_ms, next cursor, token, entries, deliveries, gone, token before}: entries as XRANGE gives them, how
--       often each was delivered (this claim included), and ids that were trimmed while pending (now settled). What
--       the caller holds under the token before, it may hold under the new one: only this claim lies between them.
--       Last, in turn, the ids of those that were noted to run alone, and how often they had been delivered then.
--
-- Below 7.0 a trimmed entry comes back without its id and stays pending: it is looked for and settled here.

local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
if now_ms > tonumber(ARGV[7]) then return {'clock', now_ms} end

local claimed = redis.pcall('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[3], ARGV[4], ARGV[5], 'COUNT', ARGV[6])
if claimed['err'] then return claimed end
local entries, deliveries, alone, nameless = {}, {}, {}, false
for i = 1, #claimed[2] do
  local entry = claimed[2][i]
  if entry and entry[2] then
    entries[#entries + 1] = entry
  else
    nameless = true
  end
end
if #entries > 0 then
  -- One look at all that is the caller's from the first to the last of them, which costs a fifth of a look at each.
  -- What it held before may lie between them: what the look did not reach is looked at alone.
  local counts = {}
  local held = redis.call('XPENDING', KEYS[1], ARGV[1], entries[1][1], entries[#entries][1], 2 * #entries, ARGV[3])
  for i = 1, #held do counts[held[i][1]] = held[i][4] end
  for i = 1, #entries do
    local id = entries[i][1]
    deliveries[i] = counts[id] or redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1][4]
  end
  if redis.call('HEXISTS', KEYS[2], ARGV[9]) == 1 then -- few groups ever have one
    local fields = {}
    for i = 1, #entries do fields[i] = ARGV[9] .. entries[i][1] end
    for i, noted in ipairs(redis.call('HMGET', KEYS[2], unpack(fields))) do
      if noted and tonumber(noted) >= deliveries[i] then
        redis.call('HDEL', KEYS[2], fields[i]) -- of a life before this one: the group was reset, or lost
      elseif noted then
        alone[#alone + 1] = entries[i][1]
        alone[#alone + 1] = tonumber(noted)
      end
    end
  end
end

local gone = claimed[3] or {}
if nameless then
  local to = claimed[1] == '0-0' and '+' or claimed[1]
  for _, held in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[5], to, 500, ARGV[3])) do
    if #redis.call('XRANGE', KEYS[1], held[1], held[1]) == 0 then
      redis.call('XACK', KEYS[1], ARGV[1], held[1])
      gone[#gone + 1] = held[1]
    end
  end
end

local before = redis.call('HGET', KEYS[2], ARGV[2] .. ':token') or ''
local token = before
if #entries > 0 then
  -- not armed: XAUTOCLAIM was the first write, and is allowed under OOM
  token = string.format('%d', now_ms) .. '-' .. ARGV[8]
  redis.call('HSET', KEYS[2], ARGV[2] .. ':token', token)
end
return {'ok', now_ms, claimed[1], token, entries, deliveries, gone, before, alone}
