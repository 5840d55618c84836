-- list_give_back: puts tasks that workers of ours have taken back to the end of their list where tasks are taken.
--
-- KEYS  1 list (or sorted set)  2 hand  3 stream, or S:again:<group>  4 S:members:<group>  5 S:retry:<group>
--       6 S:retry-bodies:<group>  7 S:never
-- ARGV  1 group  2 the end they are put to: left, right, lowest (a sorted set)
--       3 with lowest, what stands before the score in the field `h`  4 1 if members of the sorted set begin with an id
--       5 only if no member has been heard of for so long, in ms; 0: whoever lives
--       6 hand, unread, retry: at most 500 of those; or pending, with 7 the least idle time in ms of what was delivered
--         (of what never ran, none is asked for; -1: only what never ran)  8… ids of entries, at most 500
-- Returns how many were given back, 500 or about 1 MB at most; -1 if a member lives: nothing was done. Or an error: of
--       the task that it stopped at nothing was changed.
--
-- The last of them first, so that the first stands next. Nothing is lost whatever is refused: a task is put into the list
-- before it is taken from where it stood, and clients that wait for the list are served when the script has ended.

local MOST, MOST_BYTES = 500, 1048576

local function failed(reply) return type(reply) == 'table' and reply['err'] end

local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
if ARGV[5] ~= '0' then
  local members = redis.call('HGETALL', KEYS[4])
  for i = 2, #members, 2 do
    local seen = string.match(members[i], '^%d+:(%d+)$')
    if seen and now_ms - tonumber(seen) <= tonumber(ARGV[5]) then return -1 end
  end
end
redis.call('DEL', KEYS[7])

local given, bytes, number = 0, 0, 0

local function put(body, header)
  bytes = bytes + #body
  if ARGV[2] ~= 'lowest' then return redis.pcall(ARGV[2] == 'left' and 'LPUSH' or 'RPUSH', KEYS[1], body) end
  local score = '0'
  if header and string.sub(header, 1, #ARGV[3]) == ARGV[3] then score = string.sub(header, #ARGV[3] + 2) end
  if ARGV[4] == '1' then
    number = number + 1
    body = string.sub(redis.sha1hex(now[1] .. ' ' .. now[2] .. ' ' .. number .. ' ' .. body), 1, 16) .. ':' .. body
  end
  return redis.pcall('ZADD', KEYS[1], 'NX', score, body)
end

-- The payload and the header among the fields of an entry, or of a retry.
local function task_of(fields)
  local body, header
  if type(fields) == 'table' then
    for i = 1, #fields - 1, 2 do
      if fields[i] == 'b' then body = fields[i + 1] end
      if fields[i] == 'h' then header = fields[i + 1] end
    end
  end
  return body, header
end

local function full() return given >= MOST or bytes >= MOST_BYTES end

if ARGV[6] == 'hand' then
  while not full() do
    local body = redis.pcall('LINDEX', KEYS[2], 0)
    if failed(body) then return body end
    if not body then break end
    local done = put(body)
    if failed(done) then return done end
    redis.call('LPOP', KEYS[2])
    given = given + 1
  end
elseif ARGV[6] == 'unread' then
  local last = '0-0'
  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[3])
  if failed(groups) then
    if string.find(groups['err'], 'no such key', 1, true) then return 0 end
    return groups
  end
  for _, group in ipairs(groups) do
    local facts = {}
    for i = 1, #group, 2 do facts[group[i]] = group[i + 1] end
    if facts['name'] == ARGV[1] then last = facts['last-delivered-id'] end
  end
  -- Several at a time, as what was just deleted is passed over again by the next look; few until their size is known.
  local step, over = 1, false
  while not (over or full()) do
    local entries = redis.call('XREVRANGE', KEYS[3], '+', '(' .. last, 'COUNT', math.min(step, MOST - given))
    local ids, problem = {}, nil
    for i = 1, #entries do
      local body, header = task_of(entries[i][2])
      local done = body and put(body, header)
      if failed(done) then problem = done end
      over = not body or problem ~= nil
      if over then break end
      ids[i] = entries[i][1]
      if bytes >= MOST_BYTES then break end
    end
    if #ids == 0 then over = true else redis.call('XDEL', KEYS[3], unpack(ids)) end
    if problem then return problem end
    given = given + #ids
    step = math.min(4 * step, 128)
  end
elseif ARGV[6] == 'retry' then
  for _, member in ipairs(redis.call('ZREVRANGE', KEYS[5], 0, MOST - 1)) do
    if full() then break end
    local packed = redis.call('HGET', KEYS[6], member)
    local read, fields = pcall(cmsgpack.unpack, packed or '')
    local body, header = task_of(read and fields)
    if body then
      local done = put(body, header)
      if failed(done) then return done end
      redis.call('ZREM', KEYS[5], member)
      redis.call('HDEL', KEYS[6], member)
      given = given + 1
    end
  end
else
  for i = 8, #ARGV do
    if full() then break end
    local held = redis.pcall('XPENDING', KEYS[3], ARGV[1], ARGV[i], ARGV[i], 1)
    if failed(held) then return held end
    local least, one = tonumber(ARGV[7]), held[1]
    if one and (one[4] == 0 or (least >= 0 and one[3] >= least)) then
      local entry = redis.call('XRANGE', KEYS[3], ARGV[i], ARGV[i])[1]
      local body, header = task_of(entry and entry[2])
      if body then
        local done = put(body, header)
        if failed(done) then return done end
        redis.call('XACK', KEYS[3], ARGV[1], ARGV[i])
        redis.call('XDEL', KEYS[3], ARGV[i])
        given = given + 1
      end
    end
  end
end
return given
