-- list_old_seen: keeps since when more copies of a task than records have stood in old workers' processing list.
--
-- KEYS  1 …:list:seen  2 S:never
-- ARGV  1 longest time between two looks that counts, ms  2 ms until the key expires  3… digest of a task, how many
--       copies more than records of it stand there
-- Returns how long somebody has looked so far, ms.
--
-- Field @: `observed now`: time is counted as long as somebody looks, by the server's clock: neither a clock that is set
-- nor a pause in which nobody looked makes a task look older than it was seen. Field of a task: `since=copies …`, the
-- oldest first. Fewer copies than before: those that came last are forgotten; more: they count from now on. A key that
-- never exists is deleted first, which lets the script write on under OOM.

local seen = redis.pcall('HGET', KEYS[1], '@')
if type(seen) == 'table' then return seen end
redis.call('DEL', KEYS[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local observed, last = string.match(seen or '', '^(%d+) (%d+)$')
observed = (observed or 0) + math.max(math.min(now - (last or now), tonumber(ARGV[1])), 0)
redis.call('HSET', KEYS[1], '@', string.format('%d %d', observed, now))
redis.pcall('PEXPIRE', KEYS[1], ARGV[2])

for i = 3, #ARGV, 2 do
  local left, levels = tonumber(ARGV[i + 1]), {}
  for since, count in string.gmatch(redis.call('HGET', KEYS[1], ARGV[i]) or '', '(%d+)=(%d+)') do
    local kept = math.min(tonumber(count), left)
    left = left - kept
    if kept > 0 then levels[#levels + 1] = since .. '=' .. string.format('%d', kept) end
  end
  if left > 0 then levels[#levels + 1] = string.format('%d=%d', observed, left) end
  if #levels > 0 then redis.call('HSET', KEYS[1], ARGV[i], table.concat(levels, ' ')) else redis.call('HDEL', KEYS[1], ARGV[i]) end
end
return observed
