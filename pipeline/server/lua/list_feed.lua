-- list_feed: moves tasks of a list queue into the stream of what is taken: first what lies in the hand, then from the
-- list's end where tasks are taken, the next one first.
--
-- KEYS  1 list (or sorted set)  2 hand  3 stream  4 S:never
-- ARGV  1 group  2 most tasks that may be unread in the stream afterwards; with end '' simply the most that are moved
--       3 the end they are taken from: left, right, lowest (a sorted set), or '' (what lies in the hand, and no more)
--       4 the field `h` of their entries; with lowest, all of it that stands before the score
--       5 1 if members of the sorted set begin with an id of their own (`<16 hex>:`), which is not the payload's
--       6 what completes the header of a task that has no score: '' for a list's; what lies in the hand has none
-- Returns {moved, unread}: how many were moved, and how many are in the stream that no member has read; or an error:
--       then nothing was moved.
--
-- A task is added to the stream before it is taken out of its list, so that nothing that is refused can lose it; a key
-- that never exists is deleted first, which lets the script write on under OOM. It moves about 1 MB and stops: tasks may
-- be of any size, and are looked at a few at a time until it is known how large they are.

local MOST_BYTES = 1048576

local function failed(reply) return type(reply) == 'table' and reply['err'] end

local group = redis.pcall('XPENDING', KEYS[3], ARGV[1])
if failed(group) then return group end
local unread = math.max(redis.call('XLEN', KEYS[3]) - group[1], 0)
local most = tonumber(ARGV[2])
if ARGV[3] ~= '' then most = most - unread end

-- The next tasks of each kind of key, from the number `at` on; what takes so many of them out; what is added of one.
local kinds = {
  right = {
    'list',
    function(key, at, count)
      local turned, found = {}, redis.pcall('LRANGE', key, -at - count, -at - 1)
      if failed(found) then return found end
      for i = #found, 1, -1 do turned[#turned + 1] = found[i] end
      return turned
    end,
    function(key, count) return redis.pcall('LTRIM', key, 0, -count - 1) end,
  },
  left = {
    'list',
    function(key, at, count) return redis.pcall('LRANGE', key, at, at + count - 1) end,
    function(key, count) return redis.pcall('LTRIM', key, count, -1) end,
  },
  lowest = {
    'zset',
    function(key, at, count)
      local members, found = {}, redis.pcall('ZRANGE', key, at, at + count - 1, 'WITHSCORES')
      if failed(found) then return found end
      for i = 1, #found, 2 do members[#members + 1] = {found[i], found[i + 1]} end
      return members
    end,
    function(key, count) return redis.pcall('ZREMRANGEBYRANK', key, 0, count - 1) end,
  },
}

local armed, bytes, moved = false, 0, 0

local function add(task)
  local body, header = task, ARGV[4]
  if type(task) == 'string' then
    header = header .. ARGV[6]
  else
    body = task[1]
    if ARGV[5] == '1' and string.find(body, '^%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x:') then body = string.sub(body, 18) end
    header = header .. string.char(0xa0 + #task[2]) .. task[2] -- a msgpack text: the last header is the score
  end
  if not armed then
    redis.call('DEL', KEYS[4])
    armed = true
  end
  bytes = bytes + #body
  return redis.pcall('XADD', KEYS[3], '*', 'h', header, 'b', body)
end

-- Moves what there is room for out of one key; the error that stopped it.
local function drain(key, kind)
  local ids, step, problem = {}, 1, nil
  while not problem and moved + #ids < most and bytes < MOST_BYTES do
    local count = math.min(step, most - moved - #ids)
    local tasks = kinds[kind][2](key, #ids, count)
    if failed(tasks) then
      problem = tasks
      if string.find(tasks['err'], 'WRONGTYPE', 1, true) then
        problem = {err = 'WRONGTYPE ' .. key .. ' holds a ' .. redis.call('TYPE', key)['ok'] .. ', not a ' .. kinds[kind][1]}
      end
      break
    end
    for i = 1, #tasks do
      local id = add(tasks[i])
      if failed(id) then
        problem = id
        break
      end
      ids[#ids + 1] = id
      if bytes >= MOST_BYTES then break end
    end
    if #tasks < count then break end
    step = math.min(4 * step, 128)
  end
  if #ids > 0 then
    local taken = kinds[kind][3](key, #ids)
    if failed(taken) then -- it may not be taken out: it stays where it is, and only there
      redis.call('XDEL', KEYS[3], unpack(ids))
      return taken
    end
  end
  moved = moved + #ids
  return problem
end

local problem = drain(KEYS[2], 'right')
if not problem and ARGV[3] ~= '' then problem = drain(KEYS[1], ARGV[3]) end
if problem and moved == 0 then return problem end
return {moved, unread + moved}
