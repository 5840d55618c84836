-- list_old_task: puts a task back whose old worker has not finished it within its timeout, as its record says.
--
-- KEYS  1 the record  2 old workers' processing list  3 the list  4 S:never; where these are in several slots, 1 alone
-- ARGV  1 s until a task times out whose record does not say  2 left or right: the end that tasks are pushed to
-- Returns {what, text}:
--       recovered  it is in the list again, and its record gone    text: the task
--       timed out  (with KEYS 1 alone) its record is gone, and whoever is told so has to put the task back: of any number
--                  of callers one is told. Killed behind this step, it leaves a task without a record    text: the task
--       forgotten  the record is gone: nothing stands in the processing list, so the task was acknowledged, or put back
--       kept       it has not timed out, or its record is gone
--       malformed  the record says nothing that can be used: it is left alone    text: why
--
-- Whatever others do, a record that timed out and a copy that stands are looked at and removed in one step. The copy
-- nearest to the tail is removed, the oldest of equal ones. A key that never exists is deleted first, which lets the
-- script write on under OOM; the task is added before it is removed.

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

local function forget(what, said)
  local gone = redis.pcall('DEL', KEYS[1])
  if type(gone) == 'table' then return gone end
  return {what, said}
end

if #KEYS == 1 then return forget('timed out', task) end
local stands = redis.pcall('LPOS', KEYS[2], task, 'RANK', -1)
if type(stands) == 'table' then return stands end
redis.call('DEL', KEYS[4])
if not stands then return forget('forgotten', '') end
local added = redis.pcall(ARGV[2] == 'left' and 'LPUSH' or 'RPUSH', KEYS[3], task)
if type(added) == 'table' then return added end
local removed = redis.pcall('LREM', KEYS[2], -1, task)
if removed ~= 1 then -- it may not be taken out: it stays where it is, and only there
  redis.pcall(ARGV[2] == 'left' and 'LPOP' or 'RPOP', KEYS[3])
  return removed
end
return forget('recovered', task)
