-- list_old_claim: the first step by which copies without a record come back whose keys are in several slots: takes over
-- those that have been seen for long enough.
--
-- KEYS  1 …:list:seen  2 S:never
-- ARGV  1 digest of the task  2 old timeout, ms  3 most copies
-- Returns how many copies the caller, and nobody else, may put back.
--
-- …:list:seen is as list_old_seen writes it. Killed behind this step, a caller leaves copies that are seen anew.

local seen = redis.pcall('HMGET', KEYS[1], '@', ARGV[1])
if seen['err'] then return seen end
local observed = tonumber(string.match(seen[1] or '', '^(%d+)') or 0)
local rest, taken = {}, 0
for since, count in string.gmatch(seen[2] or '', '(%d+)=(%d+)') do
  local off = 0
  if observed - since >= tonumber(ARGV[2]) then off = math.min(tonumber(count), ARGV[3] - taken) end
  taken = taken + off
  if tonumber(count) > off then rest[#rest + 1] = string.format('%s=%d', since, count - off) end
end
if taken == 0 then return 0 end
redis.call('DEL', KEYS[2])
if #rest > 0 then
  redis.call('HSET', KEYS[1], ARGV[1], (string.match(seen[2], '^@%S* ') or '@ ') .. table.concat(rest, ' '))
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return taken
