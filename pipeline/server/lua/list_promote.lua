-- list_promote: moves delayed tasks whose time has come to the end of the list that tasks are taken from.
--
-- KEYS  1 the sorted set of delayed tasks  2 the list, or the sorted set of a priority queue  3 S:never
--       4 of the old key of delayed tasks, what says which list it belongs to
-- ARGV  1 most tasks  2 ms or s: what due times are kept in
--       3 left or right: the end that tasks are taken from; unique or classic: members of the priority queue
--       4 1 if members of KEYS 1 have an id before the payload, 0 if they are the payload
--       5 the list's name, for KEYS 4  6 ms for which it stands there
-- Returns {moved, next due ms or '', merged}: merged: of those, classic members that a priority queue held already; they
--       keep its priority. Or {-1, list, 0}: KEYS 1 belongs to that list; or an error: then nothing was moved.
--
-- Of those that are due the latest go first: when all calls are done the earliest due stands at the very end, and is
-- taken next. A key that never exists is deleted first, which lets the script write on under OOM. Tasks are added before
-- they are removed, so that nothing that is refused can lose one.

local function failed(reply) return type(reply) == 'table' and reply['err'] end

local sorted = ARGV[3] == 'unique' or ARGV[3] == 'classic'
local time = redis.call('TIME')
local now = ARGV[2] == 'ms' and string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
  or string.format('%d.%06d', time[1], time[2])
local due = redis.pcall('ZREVRANGEBYSCORE', KEYS[1], now, '-inf', 'LIMIT', 0, ARGV[1])
if failed(due) then return due end
local owner = #due > 0 and KEYS[4] and redis.pcall('GET', KEYS[4])
if failed(owner) then return owner end
if owner and owner ~= ARGV[5] then return {-1, owner, 0} end

local merged = 0
if #due > 0 then
  redis.call('DEL', KEYS[3])
  if KEYS[4] then redis.pcall('SET', KEYS[4], ARGV[5], 'PX', ARGV[6]) end
  local us, payloads, added, problem = time[1] * 1000000 + time[2], {}, {}, nil
  for i, member in ipairs(due) do
    local id, priority, payload = false, '0', member
    if ARGV[4] == '1' then
      if sorted then
        id, priority, payload = string.match(member, '^(%x+):([^:]*):(.*)$')
      else
        id, payload = string.match(member, '^(%x+):(.*)$')
      end
      -- not as we write them: it goes on as it is
      if not id or #id ~= 16 or not tonumber(priority) then id, priority, payload = false, '0', member end
    end
    payloads[i] = payload
    if sorted then
      local put, new
      repeat
        new = ARGV[3] == 'classic' and payload or (id or string.format('%013x%03x', us, #due - i)) .. ':' .. payload
        put = redis.pcall('ZADD', KEYS[2], 'NX', priority, new)
        id, us = false, us + 1
      until put ~= 0 or ARGV[3] == 'classic'
      if failed(put) then problem = put break end
      if put == 1 then added[#added + 1] = new else merged = merged + 1 end
    end
  end
  if not sorted then problem = redis.pcall(ARGV[3] == 'left' and 'LPUSH' or 'RPUSH', KEYS[2], unpack(payloads)) end
  if not failed(problem) then
    local removed = redis.pcall('ZREM', KEYS[1], unpack(due))
    if failed(removed) then -- they may not be taken out: they stay where they are, and only there
      problem = removed
      if not sorted then
        local from, to = ARGV[3] == 'left' and #due or 0, ARGV[3] == 'left' and -1 or -#due - 1
        redis.pcall('LTRIM', KEYS[2], from, to)
      end
    end
  end
  if failed(problem) then
    if #added > 0 then redis.pcall('ZREM', KEYS[2], unpack(added)) end
    return problem
  end
end
local first = redis.pcall('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
if first and ARGV[2] == 's' then first = string.format('%.0f', tonumber(first) * 1000) end
return {#due, first or '', merged}
