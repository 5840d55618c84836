-- promote: moves deliveries whose time has come from a group's retries to its `again` stream.
--
-- KEYS  1 S:again:<group>  2 S:retry:<group>  3 S:retry-bodies:<group>
-- ARGV  1 most deliveries
-- Returns {taken, next due ms, found, lost member…}: next due is '' where nothing waits. found: bodies without a due time,
--       which are due from now on; lost: of those taken, the ones without a body, of which nothing is left.
--
-- Eviction takes either key without the other. What became of the rest of the pair is seen here: a body that nothing
-- names is put back (a random sample of them, so that a call stays short), a name without a body is answered.
--
-- Any number of members may run it. A body is a msgpack array of the fields to add (raw strings: cmsgpack knows no bin
-- type); one that cannot be read goes on as it is, to become a dead letter. Under OOM the first XADD is
-- refused and nothing has changed: what waits, waits on.

local function addable(fields) -- what XADD can be called with: names and values, no more than Lua passes on
  if type(fields) ~= 'table' or #fields == 0 or #fields % 2 == 1 or #fields > 7000 then return false end
  for _, field in ipairs(fields) do
    if type(field) ~= 'string' then return false end
  end
  return true
end

local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%d', now_ms), 'LIMIT', 0, ARGV[1])
local lost = {}
for _, member in ipairs(due) do
  local body = redis.call('HGET', KEYS[3], member)
  if body then
    local read, fields = pcall(cmsgpack.unpack, body)
    if not read or not addable(fields) then fields = {'corrupt', body} end
    local added = redis.pcall('XADD', KEYS[1], '*', unpack(fields))
    if type(added) == 'table' then return added end
    redis.call('HDEL', KEYS[3], member)
    redis.call('ZREM', KEYS[2], member)
  else
    lost[#lost + 1] = member
  end
end
if #lost > 0 then redis.call('ZREM', KEYS[2], unpack(lost)) end -- at last: an error above would keep them from being told
local found = 0
if redis.call('HLEN', KEYS[3]) > redis.call('ZCARD', KEYS[2]) then
  for _, member in ipairs(redis.call('HRANDFIELD', KEYS[3], ARGV[1])) do
    -- refused for want of memory: it is found again by a later call
    if redis.pcall('ZADD', KEYS[2], 'NX', string.format('%d', now_ms), member) == 1 then found = found + 1 end
  end
end
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
return {#due, first[2] or '', found, unpack(lost)}
