-- bridge_move: moves tasks from a list's take end into a stream, as the entries that the caller made of them.
--
-- KEYS  1 list  2 stream  3 S:never
-- ARGV  1 the list's take end, left or right  2 hard cap of the stream in entries, 0 for none
--       3 how many that were pushed to the take end since may be left standing before what the caller saw
--       4… for each task as the caller saw it, the next one first: payload, h, b
-- Returns {moved, left standing, which were passed over…}: how many were moved; how many stand before where they were;
--       those counted from 1 that were no longer there, up to the last one that was moved. The error, if nothing was
--       moved for one.
--
-- Others take from the list meanwhile. So only what stands at the take end just now is moved, and only if the caller
-- made an entry of an equal payload: equal payloads are one another's substitutes, so this is exact, and in order.
-- Entries first, and then as many are popped as were added. An allowed write comes before: a backlog that fills the
-- server's memory must get on.
--
-- Of a list that is taken from the end it is pushed to, the take end changes with each push: while many are pushed, no
-- caller could ever have seen what stands there. So what it saw is moved from behind those; they are taken next.

local right = ARGV[1] == 'right'
local most, may_stand = (#ARGV - 3) / 3, tonumber(ARGV[3])
local reach = most + may_stand
local there = redis.pcall('LRANGE', KEYS[1], right and -reach or 0, right and -1 or reach - 1)
if there['err'] then return there end
local kept = redis.pcall('XLEN', KEYS[2])
if type(kept) == 'table' then return kept end
redis.call('DEL', KEYS[3])

local reply, at, moved, count = {0, 0}, 4, 0, #there
local function nth(i) return there[right and count + 1 - i or i] end
local standing = 0
while standing < may_stand and standing < count and nth(standing + 1) ~= ARGV[4] do standing = standing + 1 end
-- The first that the caller saw is gone: what stands there is looked for as ever.
if standing == may_stand or standing == count then standing = 0 end

local call, argv, last = redis.pcall, ARGV, #ARGV
for i = standing + 1, count do
  local payload = nth(i)
  local found = at
  while found <= last and argv[found] ~= payload do found = found + 3 end
  if found > last then break end
  local added = call('XADD', KEYS[2], '*', 'h', argv[found + 1], 'b', argv[found + 2])
  if type(added) == 'table' then
    if moved == 0 then return added end
    break
  end
  for passed = at, found - 3, 3 do reply[#reply + 1] = (passed - 1) / 3 end
  moved, at = moved + 1, found + 3
end
if moved > 0 then
  redis.call(right and 'RPOP' or 'LPOP', KEYS[1], standing + moved)
  for i = standing, 1, -1 do redis.call(right and 'RPUSH' or 'LPUSH', KEYS[1], nth(i)) end
  if ARGV[2] ~= '0' then redis.call('XTRIM', KEYS[2], 'MAXLEN', '~', ARGV[2]) end
end
reply[1], reply[2] = moved, standing
return reply
