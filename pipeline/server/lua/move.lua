-- move: takes entries out of a group's pending into its `again` stream, its retries or its dead letters, in one step.
--
-- KEYS  1 stream  2 S:groups  3 S:again:<group>  4 S:retry:<group>  5 S:retry-bodies:<group>  6 S:dead:<group>
-- ARGV  1 group  2 group, escaped  3 1 if moved entries are also deleted (`again`)
--       4 least idle time, ms: 0 for a consumer's own, more where others' abandoned entries are moved
--       5 random part of a new claims token, or '' if only the caller's own entries are moved
--       then for each entry: its id, its consumer, the number of moves, and for each move
--         'again' n field value …   | 'dead' n field value …   | 'retry' 3 due_ms member body
-- Returns one answer per entry: 1 moved, 0 not pending with that consumer any more (nothing was added),
--       or the error that stopped it (nothing was added for it, nor for those after it).
--
-- Adding comes first. Only when the server refuses for memory does XACK go first: a script that has written once is
-- not refused again, so the two still happen together.

local kinds = {again = {KEYS[3], 'stream'}, dead = {KEYS[6], 'stream'}, retry = {KEYS[4], 'zset'}}

local function add(kind, at, count)
  if kind == 'retry' then
    local added = redis.pcall('ZADD', KEYS[4], ARGV[at], ARGV[at + 1])
    if type(added) == 'table' then return added end
    local kept = redis.pcall('HSET', KEYS[5], ARGV[at + 1], ARGV[at + 2])
    return type(kept) == 'table' and kept or nil
  end
  local added = redis.pcall('XADD', kinds[kind][1], '*', unpack(ARGV, at, at + count - 1))
  return type(added) == 'table' and added or nil
end

local right = {}

local function wrong_type(kind)
  if right[kind] then return end -- nothing but this script has run since
  local key = kinds[kind]
  for _, pair in ipairs(kind == 'retry' and {key, {KEYS[5], 'hash'}} or {key}) do
    local is = redis.call('TYPE', pair[1])['ok']
    if is ~= 'none' and is ~= pair[2] then
      return 'WRONGTYPE ' .. pair[1] .. ' holds a ' .. is .. ', not a ' .. pair[2]
    end
  end
  right[kind] = true
end

local answers = {}
local moved = false
local at = 6
while at <= #ARGV do
  local id, consumer, count = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  at = at + 3
  local moves = {}
  for _ = 1, count do
    local n = tonumber(ARGV[at + 1])
    moves[#moves + 1] = {ARGV[at], at + 2, n}
    at = at + 2 + n
  end
  local held
  if ARGV[4] == '0' then
    held = redis.pcall('XPENDING', KEYS[1], ARGV[1], id, id, 1)
  else
    held = redis.pcall('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[4], id, id, 1)
  end
  local problem = held['err']
  if not problem and (not held[1] or held[1][2] ~= consumer) then
    answers[#answers + 1] = 0
  else
    for _, move in ipairs(moves) do problem = problem or wrong_type(move[1]) end
    local acked = false
    for i, move in ipairs(moves) do
      if problem then break end
      local refused = add(move[1], move[2], move[3])
      if refused and i == 1 and string.find(refused['err'], 'OOM', 1, true) then
        redis.call('XACK', KEYS[1], ARGV[1], id)
        acked = true
        refused = add(move[1], move[2], move[3])
      end
      if refused then problem = refused['err'] end
    end
    if problem then
      answers[#answers + 1] = problem
      break
    end
    if not acked then redis.call('XACK', KEYS[1], ARGV[1], id) end
    if ARGV[3] == '1' then redis.call('XDEL', KEYS[1], id) end
    answers[#answers + 1] = 1
    moved = true
  end
end
if moved and ARGV[5] ~= '' then
  local now = redis.call('TIME')
  redis.call('HSET', KEYS[2], ARGV[2] .. ':token',
    string.format('%d', now[1] * 1000 + math.floor(now[2] / 1000)) .. '-' .. ARGV[5])
end
return answers
