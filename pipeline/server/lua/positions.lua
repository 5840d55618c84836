-- positions: saves where a group stands, for the day the group is lost.
--
-- KEYS  1 stream  2 S:groups  3 S:never
-- ARGV  1 group  2 group, escaped
-- Returns the position saved: just before the oldest pending entry, or the last delivered one if that comes first: then
-- there are none, or a reset was killed in its midst.

local function one_less(number) -- in decimal digits: sequence numbers exceed what a Lua number holds exactly
  local head, zeros = string.match(number, '^(%d-)(0*)$')
  local less = string.sub(head, 1, -2) .. (tonumber(string.sub(head, -1)) - 1) .. string.rep('9', #zeros)
  return (string.gsub(less, '^0+(%d)', '%1'))
end

local function below(a, b) -- as in trim
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  if a_ms ~= b_ms then return tonumber(a_ms) < tonumber(b_ms) end
  if #a_seq ~= #b_seq then return #a_seq < #b_seq end
  return a_seq < b_seq
end

local oldest = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 1)
if oldest['err'] then return oldest end
local position
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local facts = {}
  for i = 1, #group, 2 do facts[group[i]] = group[i + 1] end
  if facts['name'] == ARGV[1] then position = facts['last-delivered-id'] end
end
if oldest[1] and not below(position, oldest[1][1]) then
  local ms, seq = string.match(oldest[1][1], '^(%d+)-(%d+)$')
  if seq ~= '0' then
    position = ms .. '-' .. one_less(seq)
  else
    position = one_less(ms) .. '-18446744073709551615'
  end
end
if redis.call('HEXISTS', KEYS[2], ARGV[2] .. ':since') == 0 then
  -- S:groups was deleted: without a record, a group that is lost later would count as a new one
  local now = redis.call('TIME')
  redis.call('DEL', KEYS[3])
  redis.call('HSET', KEYS[2], ARGV[2] .. ':since', string.format('%d', now[1] * 1000 + math.floor(now[2] / 1000)))
end
if redis.call('HGET', KEYS[2], ARGV[2] .. ':pos:main') ~= position then
  redis.call('DEL', KEYS[3])
  redis.call('HSET', KEYS[2], ARGV[2] .. ':pos:main', position)
end
return position
