-- list_old_seen: keeps since when more copies of a task than records have stood in old workers' processing list.
--
-- KEYS  1 …:list:seen  2 S:never
-- ARGV  1 longest time between two looks that counts, ms  2 ms until the key expires  3 ms that it costs a task when an
--       equal one was taken since the last look  4… digest of a task, how many copies more than records of it stand there,
--       the timestamp of its record, or ''
-- Returns how long somebody has looked so far, ms.
--
-- Field @: `observed now`: time is counted as long as somebody looks, by the server's clock: neither a clock that is set
-- nor a pause in which nobody looked makes a task look older than it was seen. Field of a task: `@<timestamp> since=copies
-- …`, the oldest first. Fewer copies than before: those that came last are forgotten; more: they count from now on. A
-- record with another timestamp than before: an old worker has taken an equal task, and whoever acknowledges one deletes
-- the record of all, so some of these copies may be of live workers. They count from a little later on; where equal tasks
-- are taken all the time, from now on. A key that never exists is deleted first, which lets the script write on under OOM.

local seen = redis.pcall('HGET', KEYS[1], '@')
if type(seen) == 'table' then return seen end
redis.call('DEL', KEYS[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local observed, last = string.match(seen or '', '^(%d+) (%d+)$')
observed = (observed or 0) + math.max(math.min(now - (last or now), tonumber(ARGV[1])), 0)
redis.call('HSET', KEYS[1], '@', string.format('%d %d', observed, now))
redis.pcall('PEXPIRE', KEYS[1], ARGV[2])

for i = 4, #ARGV, 3 do
  local left, levels = tonumber(ARGV[i + 1]), {}
  local before = redis.call('HGET', KEYS[1], ARGV[i]) or ''
  local stamp, later = string.match(before, '^@(%S*)') or '', 0
  if ARGV[i + 2] ~= '' and ARGV[i + 2] ~= stamp then
    stamp, later = ARGV[i + 2], tonumber(ARGV[3])
  end
  for since, count in string.gmatch(before, '(%d+)=(%d+)') do
    local kept = math.min(tonumber(count), left)
    left = left - kept
    if kept > 0 then levels[#levels + 1] = string.format('%d=%d', math.min(since + later, observed), kept) end
  end
  if left > 0 then levels[#levels + 1] = string.format('%d=%d', observed, left) end
  if #levels > 0 then
    redis.call('HSET', KEYS[1], ARGV[i], '@' .. stamp .. ' ' .. table.concat(levels, ' '))
  else
    redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return observed
