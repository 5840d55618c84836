-- move: takes entries out of a group's pending, and in the same step does what is to become of their events: puts them
-- into the group's `again` stream, its retries or its dead letters, carries out the effects of their handlers, appends
-- what these emitted, and notes in the inbox of `once=` that they are done.
--
-- KEYS  1 stream  2 S:groups  3 S:again:<group>  4 S:retry:<group>  5 S:retry-bodies:<group>  6 S:dead:<group>
--       7 S:never  8… the keys of effects, emitted events and inbox records, by their numbers in what follows
-- ARGV  1 group  2 group, escaped  3 1 if moved entries are also deleted (`again`)
--       4 least idle time, ms: 0 for a consumer's own, more where others' abandoned entries are moved
--       5 random part of a new claims token, or '' if only the caller's own entries are moved
--       6 '', or the group's filter by which events of these entries were passed over: it must still stand
--       then for each entry: its id, its consumer, the number of moves, and for each move its kind, which event of the
--         entry it is for (from 0), the number of words, and these:
--         again | dead   field value …
--         retry          due_ms member body
--         call           key number, its type (any: but for a stream), command, the arguments behind the key
--         emit           key number of the stream, key number of its S:ids:<id> or '', ms until that expires, field value …
--         done           key number, ms until it expires, what it holds
-- Returns {'FILTER', filter} if the filter is another now: nothing was done. Else one answer per entry:
--       1  done
--       2  done, but for what some of its events wanted, which another run of them has done before (inbox)
--       0  not pending with that consumer any more: nothing was done for it
--       {'REFUSED', event, problem}  an effect or an emitted event cannot be: nothing was done for the entry
--       {'HALF', event, problem, …}  effects of these events were refused after others had been carried out, so the
--          rest of what these events wanted was left, all else was done, and the entry stays pending
--       text: the error that stopped it (nothing was done for it, nor for those after it)
--
-- What can be found out beforehand is, for all moves of an entry, before any is made: that each key holds the right type,
-- that what is counted up is a number, and stays within 64 bit. When the server refuses the first write for memory, a key
-- that never exists is deleted: a script that has written once is not refused again.

if ARGV[6] ~= '' then
  local filter = redis.call('HGET', KEYS[2], ARGV[2] .. ':filter') or ''
  if filter ~= ARGV[6] then return {'FILTER', filter} end
end

local own = {again = {KEYS[3], 'stream'}, dead = {KEYS[6], 'stream'}, retry = {KEYS[4], 'zset'}}

local function failed(reply) return type(reply) == 'table' and reply['err'] end

-- The first reply that is an error.
local function first_error(...)
  for _, reply in ipairs({...}) do
    if failed(reply) then return reply['err'] end
  end
end

local function holds(key, wanted)
  local is = redis.call('TYPE', key)['ok']
  if is == 'none' or is == wanted or (wanted == 'any' and is ~= 'stream') then return end
  return 'WRONGTYPE ' .. key .. ' holds a ' .. is .. ', not a ' .. wanted
end

local right = {}

local function wrong_type(kind)
  if right[kind] then return end -- nothing but this script has run since
  local key = own[kind]
  local problem = holds(key[1], key[2])
  if not problem and kind == 'retry' then problem = holds(KEYS[5], 'hash') end
  right[kind] = not problem
  return problem
end

-- Commands that count up: where the number stands that they add to, and what is added.
local counts = {
  INCR = function(at) return {'GET'}, 1 end,
  DECR = function(at) return {'GET'}, -1 end,
  INCRBY = function(at) return {'GET'}, tonumber(ARGV[at]) end,
  DECRBY = function(at) return {'GET'}, -tonumber(ARGV[at]) end,
  HINCRBY = function(at) return {'HGET', ARGV[at]}, tonumber(ARGV[at + 1]) end,
  INCRBYFLOAT = function(at) return {'GET'}, tonumber(ARGV[at]), true end,
  HINCRBYFLOAT = function(at) return {'HGET', ARGV[at]}, tonumber(ARGV[at + 1]), true end,
}

-- Whether a command can be foreseen to be refused, and why.
local function cannot(move)
  local key, command = KEYS[tonumber(ARGV[move.at])], ARGV[move.at + 2]
  local problem = holds(key, ARGV[move.at + 1])
  if problem or not counts[command] then return problem end
  local get, by, float = counts[command](move.at + 3)
  local stands = redis.call(get[1], key, unpack(get, 2))
  if not stands then stands = '0' end
  local number = tonumber(stands)
  if not number or not by or (not float and not string.find(stands, '^%-?%d+$')) then
    return 'ERR ' .. command .. ' ' .. key .. ': what stands there is not a number'
  end
  if not float and math.abs(number) + math.abs(by) > 9.2e18 then
    return 'ERR ' .. command .. ' ' .. key .. ': it would not stay within 64 bit'
  end
end

-- Each makes one move, and returns the error that kept it from being made.
local make = {
  call = function(move)
    local key, last = KEYS[tonumber(ARGV[move.at])], move.at + move.words - 1
    if last < move.at + 3 then return first_error(redis.pcall(ARGV[move.at + 2], key)) end
    return first_error(redis.pcall(ARGV[move.at + 2], key, unpack(ARGV, move.at + 3, last)))
  end,
  emit = function(move)
    local ids = ARGV[move.at + 1] ~= '' and KEYS[tonumber(ARGV[move.at + 1])]
    if ids and redis.call('EXISTS', ids) == 1 then return end
    local id = redis.pcall('XADD', KEYS[tonumber(ARGV[move.at])], '*', unpack(ARGV, move.at + 3, move.at + move.words - 1))
    if not failed(id) and ids then return first_error(redis.pcall('SET', ids, id, 'PX', ARGV[move.at + 2])) end
    return first_error(id)
  end,
  retry = function(move)
    return first_error(redis.pcall('ZADD', KEYS[4], ARGV[move.at], ARGV[move.at + 1]))
      or first_error(redis.pcall('HSET', KEYS[5], ARGV[move.at + 1], ARGV[move.at + 2]))
  end,
  done = function(move)
    return first_error(redis.pcall('SET', KEYS[tonumber(ARGV[move.at])], ARGV[move.at + 2], 'PX', ARGV[move.at + 1]))
  end,
}
make.again = function(move)
  return first_error(redis.pcall('XADD', own[move.kind][1], '*', unpack(ARGV, move.at, move.at + move.words - 1)))
end
make.dead = make.again

-- Effects first: what is refused against all foresight is so where nothing was done yet, if it can be.
local order = {{call = true}, {emit = true, again = true, dead = true, retry = true}, {done = true}}

local answers = {}
local moved = false
local at = 7

local function settle(id, moves)
  local skip, repeated = {}, false
  for _, move in ipairs(moves) do
    if move.kind == 'done' and redis.call('EXISTS', KEYS[tonumber(ARGV[move.at])]) == 1 then
      skip[move.event], repeated = true, true
    end
  end
  for _, move in ipairs(moves) do
    local problem
    if skip[move.event] then
      problem = nil
    elseif own[move.kind] then
      problem = wrong_type(move.kind)
      if problem then return problem, true end
    elseif move.kind == 'call' then
      problem = cannot(move)
    elseif move.kind == 'emit' then
      problem = holds(KEYS[tonumber(ARGV[move.at])], 'stream')
    end
    if problem then return {'REFUSED', move.event, problem} end
  end
  local begun, half = false, {'HALF'}
  for _, kinds in ipairs(order) do
    for _, move in ipairs(moves) do
      if kinds[move.kind] and not skip[move.event] then
        local problem = make[move.kind](move)
        if problem and not begun and string.find(problem, 'OOM', 1, true) then
          redis.call('DEL', KEYS[7])
          problem = make[move.kind](move)
        end
        if problem and (move.kind == 'call' or move.kind == 'emit') then
          if not begun then return {'REFUSED', move.event, problem} end
          skip[move.event] = true
          half[#half + 1] = move.event
          half[#half + 1] = problem
        elseif problem then
          return problem, true
        end
        begun = true
      end
    end
  end
  if #half > 1 then return half end
  redis.call('XACK', KEYS[1], ARGV[1], id)
  if ARGV[3] == '1' then redis.call('XDEL', KEYS[1], id) end
  moved = true
  return repeated and 2 or 1
end

while at <= #ARGV do
  local id, consumer, count = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  at = at + 3
  local moves = {}
  for i = 1, count do
    moves[i] = {kind = ARGV[at], event = tonumber(ARGV[at + 1]), words = tonumber(ARGV[at + 2]), at = at + 3}
    at = at + 3 + moves[i].words
  end
  local held
  if ARGV[4] == '0' then
    held = redis.pcall('XPENDING', KEYS[1], ARGV[1], id, id, 1)
  else
    held = redis.pcall('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[4], id, id, 1)
  end
  if held['err'] then
    answers[#answers + 1] = held['err']
    break
  elseif not held[1] or held[1][2] ~= consumer then
    answers[#answers + 1] = 0
  else
    local answer, stop = settle(id, moves)
    answers[#answers + 1] = answer
    if stop then break end
  end
end
if moved and ARGV[5] ~= '' then
  local now = redis.call('TIME')
  redis.call('HSET', KEYS[2], ARGV[2] .. ':token',
    string.format('%d', now[1] * 1000 + math.floor(now[2] / 1000)) .. '-' .. ARGV[5])
end
return answers
