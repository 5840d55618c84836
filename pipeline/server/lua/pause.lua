-- pause: has all members of a group read nothing more, or read again; of two who pause, the first is kept.
--
-- KEYS  1 S:groups  2 S:never
-- ARGV  1 group, escaped  2 who and why, a line each; or '' to resume
-- Returns {changed, pause}: 1 if the group was paused or resumed by this call; the pause that stands, or that was ended
--       (its time in ms, who, why, a line each), '' where there was none.
--
-- What ended lately is forgotten with the pause: the events after it are judged anew.

redis.call('DEL', KEYS[2])
local field = ARGV[1] .. ':paused'
local paused = redis.call('HGET', KEYS[1], field)
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], field, ARGV[1] .. ':ended')
  return {paused and 1 or 0, paused or ''}
end
if paused then return {0, paused} end
local now = redis.call('TIME')
paused = string.format('%d', now[1] * 1000 + math.floor(now[2] / 1000)) .. '\n' .. ARGV[2]
redis.call('HSET', KEYS[1], field, paused)
return {1, paused}
