-- filter: notes which event types a member takes, and answers what its group takes.
--
-- KEYS  1 S:groups  2 S:never
-- ARGV  1 group, escaped  2 member  3 its filter, one line; '' if it leaves  4 how long a member that says no more
--       counts, ms
-- Returns the group's filter: the filters of its members, each once, sorted, one a line.
--
-- Kept in S:groups: `<group>:filters`, a JSON object of member to {ms, filter}, and `<group>:filter`, the answer, with
-- which `settle` and `move` compare what their caller knows. When the last member has left, its answer stays for people
-- to see; the next member's own replaces it. Deleting a key that never exists lets the script write on under OOM.

redis.call('DEL', KEYS[2])
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local read, members = pcall(cjson.decode, redis.call('HGET', KEYS[1], ARGV[1] .. ':filters') or '{}')
if not read or type(members) ~= 'table' then members = {} end
members[ARGV[2]] = ARGV[3] ~= '' and {now_ms, ARGV[3]} or nil

local kept, lines, seen = {}, {}, {}
for member, noted in pairs(members) do
  if type(noted) == 'table' and type(noted[1]) == 'number' and type(noted[2]) == 'string'
    and now_ms - noted[1] <= tonumber(ARGV[4]) then
    kept[member] = noted
    if not seen[noted[2]] then
      seen[noted[2]] = true
      lines[#lines + 1] = noted[2]
    end
  end
end
table.sort(lines)
redis.call('HSET', KEYS[1], ARGV[1] .. ':filters', cjson.encode(kept))
if #lines == 0 then return redis.call('HGET', KEYS[1], ARGV[1] .. ':filter') or '' end
local filter = table.concat(lines, '\n')
if redis.call('HGET', KEYS[1], ARGV[1] .. ':filter') ~= filter then
  redis.call('HSET', KEYS[1], ARGV[1] .. ':filter', filter)
end
return filter
