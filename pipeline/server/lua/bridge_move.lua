-- bridge_move: moves tasks from a list's take end into a stream, as the entries that the caller made of them.
--
-- KEYS  1 list  2 stream  3 S:never
-- ARGV  1 the list's take end, left or right  2 hard cap of the stream in entries, 0 for none
--       3… for each task as the caller saw it, the next one first: payload, h, b
-- Returns {moved, which were passed over…}: how many were moved; those counted from 1 that were no longer there, up to
--       the last one that was moved. The error, if nothing was moved for one.
--
-- Others take from the list meanwhile. So only what stands at the take end just now is moved, and only if the caller
-- made an entry of an equal payload: equal payloads are one another's substitutes, so this is exact, and in order.
-- Entries first, and then as many are popped as were added. An allowed write comes before: a backlog that fills the
-- server's memory must get on.

local right = ARGV[1] == 'right'
local most = (#ARGV - 2) / 3
local there = redis.pcall('LRANGE', KEYS[1], right and -most or 0, right and -1 or most - 1)
if there['err'] then return there end
local kept = redis.pcall('XLEN', KEYS[2])
if type(kept) == 'table' then return kept end
redis.call('DEL', KEYS[3])

local reply, at, moved, count = {0}, 3, 0, #there
local call, argv, last = redis.pcall, ARGV, #ARGV
for i = 1, count do
  local payload = there[right and count + 1 - i or i]
  local found = at
  while found <= last and argv[found] ~= payload do found = found + 3 end
  if found > last then break end
  local added = call('XADD', KEYS[2], '*', 'h', argv[found + 1], 'b', argv[found + 2])
  if type(added) == 'table' then
    if moved == 0 then return added end
    break
  end
  for passed = at, found - 3, 3 do reply[#reply + 1] = passed / 3 end
  moved, at = moved + 1, found + 3
end
if moved > 0 then
  redis.call(right and 'RPOP' or 'LPOP', KEYS[1], moved)
  if ARGV[2] ~= '0' then redis.call('XTRIM', KEYS[2], 'MAXLEN', '~', ARGV[2]) end
end
reply[1] = moved
return reply
