-- revive: moves dead letters of a group to its `again` stream, each once, however often it is asked for.
--
-- KEYS  1 S:dead:<group>  2 S:again:<group>
-- ARGV  for each letter: its id, the number of entries it becomes, and for each of those: n field value …
-- Returns one answer per letter: 1 moved, 0 not there any more (nothing was added), or the error that stopped it
--       (nothing was changed for it, nor for those after it).
--
-- Adding comes first. Only when the server refuses for memory is the letter removed first: a script that has written
-- once is not refused again, so the two still happen together.

local answers = {}
local at = 1
local right = redis.call('TYPE', KEYS[2])['ok']
while at <= #ARGV do
  local id, count = ARGV[at], tonumber(ARGV[at + 1])
  at = at + 2
  local from = {}
  for _ = 1, count do
    from[#from + 1] = at
    at = at + 1 + tonumber(ARGV[at])
  end
  local there = redis.pcall('XRANGE', KEYS[1], id, id)
  if there['err'] then return there end
  if not there[1] then
    answers[#answers + 1] = 0
  elseif right ~= 'none' and right ~= 'stream' then
    answers[#answers + 1] = 'WRONGTYPE ' .. KEYS[2] .. ' holds a ' .. right .. ', not a stream'
    break
  else
    local problem
    local removed = false
    for i, first in ipairs(from) do
      local n = tonumber(ARGV[first])
      local added = redis.pcall('XADD', KEYS[2], '*', unpack(ARGV, first + 1, first + n))
      if type(added) == 'table' and i == 1 and string.find(added['err'], 'OOM', 1, true) then
        redis.call('XDEL', KEYS[1], id)
        removed = true
        added = redis.pcall('XADD', KEYS[2], '*', unpack(ARGV, first + 1, first + n))
      end
      if type(added) == 'table' then problem = added['err'] end
      if problem then break end
    end
    if problem then
      answers[#answers + 1] = problem
      break
    end
    if not removed then redis.call('XDEL', KEYS[1], id) end
    answers[#answers + 1] = 1
  end
end
return answers
