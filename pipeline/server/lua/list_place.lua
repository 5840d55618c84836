-- list_place: the second of two steps by which tasks come to a list from another slot: adds what is held there, once.
--
-- KEYS  1 the list, or the sorted set of a priority queue  2 S:source:<where they come from>: the number placed last
--       3 S:never
-- ARGV  1 the number they are held under  2 left or right: the list's end; classic: members of the priority queue, with
--       priority 0  3… payloads, in order
-- Returns how many were added: 0 if they were before.
--
-- What is refused (another type) is refused whole, number and all, and is held on. A key that never exists is deleted
-- first, which lets the script write on under OOM: the tasks were on the server before.

local placed = redis.pcall('GET', KEYS[2])
if type(placed) == 'table' then return placed end
if placed and tonumber(placed) >= tonumber(ARGV[1]) then return 0 end
redis.call('DEL', KEYS[3])
local noted = redis.pcall('SET', KEYS[2], ARGV[1])
if noted['err'] then return noted end
local added
if ARGV[2] == 'classic' then
  local members = {}
  for i = 3, #ARGV do
    members[#members + 1] = '0'
    members[#members + 1] = ARGV[i]
  end
  added = redis.pcall('ZADD', KEYS[1], 'NX', unpack(members))
else
  added = redis.pcall(ARGV[2] == 'left' and 'LPUSH' or 'RPUSH', KEYS[1], unpack(ARGV, 3))
end
if type(added) == 'table' then
  if placed then redis.pcall('SET', KEYS[2], placed) else redis.pcall('DEL', KEYS[2]) end
  return added
end
return #ARGV - 2
