-- promote: moves deliveries whose time has come from a group's retries to its `again` stream.
--
-- KEYS  1 S:again:<group>  2 S:retry:<group>  3 S:retry-bodies:<group>
-- ARGV  1 most deliveries
-- Returns {moved, next due ms}: next due is '' where nothing waits.
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
for _, member in ipairs(due) do
  local body = redis.call('HGET', KEYS[3], member)
  if body then
    local read, fields = pcall(cmsgpack.unpack, body)
    if not read or not addable(fields) then fields = {'corrupt', body} end
    local added = redis.pcall('XADD', KEYS[1], '*', unpack(fields))
    if type(added) == 'table' then return added end
    redis.call('HDEL', KEYS[3], member)
  end
  redis.call('ZREM', KEYS[2], member)
end
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
return {#due, first[2] or ''}
