-- list_old_forget: the first step by which a task comes back whose keys are in several slots: deletes its record if it
-- says that its old worker has had its time.
--
-- KEYS  1 the record
-- ARGV  1 s until a task times out whose record does not say
-- Returns {what, text}:
--       timed out  the record is gone, and whoever is told so has to put the task back    text: the task
--       kept       it has not timed out, or its record is gone
--       malformed  the record says nothing that can be used: it is left alone    text: why
--
-- Of any number of callers one is told. Killed behind this step, it leaves a task without a record.

local record = redis.pcall('HMGET', KEYS[1], 'task', 'timestamp', 'timeout')
if record['err'] then return record end
local task, since, limit = record[1], tonumber(record[2] or ''), tonumber(record[3] or ARGV[1])
if not task then
  if redis.call('EXISTS', KEYS[1]) == 0 then return {'kept', ''} end
  return {'malformed', 'it has no field task'}
end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
-- not a number, or (as nan) none that compares
if not since or since ~= since then return {'malformed', 'its timestamp is no number of seconds since 1970'} end
if not limit or not (limit >= 0) then return {'malformed', 'its timeout is no number of seconds'} end
if since > now + 86400 then return {'malformed', 'its timestamp is more than a day ahead of the server'} end
if now <= since + limit then return {'kept', ''} end
local gone = redis.pcall('DEL', KEYS[1])
if type(gone) == 'table' then return gone end
return {'timed out', task}
