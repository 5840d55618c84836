-- reset: moves a group's position, and takes out of pending what will be read again from there.
--
-- KEYS  1 stream  2 S:groups  3 S:members:<group>  4 S:never
-- ARGV  1 group  2 group, escaped  3 position: what comes after it is read from now on
--       4 the position it has now, as the caller knows it  5 how many entries were ever added up to ARGV 3, or '' where
--         that is not known (or not asked for, below 7.0)
--       6 '' to begin, else the time of the first call  7 random part of a new claims token  8 most entries to take out
-- Returns {status, time of the first call, taken out}:
--       moved      the position is ARGV 3; taken out fewer than ARGV 8: nothing of that kind is pending any more
--       members    so many members live (the second value): nothing was done
--       elsewhere  the position is another one (the second value): nothing was done
--
-- The position first: what is taken out of pending is read again, whatever happens in between. Calls after the first
-- take out only what was delivered before it: what a member read or claimed since then is its own.

redis.call('DEL', KEYS[4])
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local begun = ARGV[6]
if begun == '' then
  local live = 0
  for _, record in ipairs(redis.call('HVALS', KEYS[3])) do
    local claim_after, seen = string.match(record, '^(%d+):(%d+)$')
    if claim_after and now_ms - tonumber(seen) <= tonumber(claim_after) then live = live + 1 end
  end
  if live > 0 then return {'members', live, 0} end

  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
  if groups['err'] then return groups end
  for _, row in ipairs(groups) do
    local facts = {}
    for i = 1, #row, 2 do facts[row[i]] = row[i + 1] end
    local stands = facts['last-delivered-id']
    -- where it is to go already, the answer to the first call was lost
    if facts['name'] == ARGV[1] and stands ~= ARGV[4] and stands ~= ARGV[3] then
      return {'elsewhere', stands, 0}
    end
  end
  local command = {'XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[3]}
  if ARGV[5] ~= '' then
    command[#command + 1] = 'ENTRIESREAD'
    command[#command + 1] = ARGV[5]
  end
  local moved = redis.pcall(unpack(command))
  if moved['err'] then return moved end
  begun = string.format('%d', now_ms)
  if redis.call('HEXISTS', KEYS[2], ARGV[2] .. ':since') == 1 then
    -- else it is a stranger's, whose position is not for us to keep
    redis.call('HSET', KEYS[2], ARGV[2] .. ':token', begun .. '-' .. ARGV[7])
    -- what pends up to there is behind the saved position until it is put aside: a group lost before comes back at it
    local ahead = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', ARGV[3], 1)
    if ahead['err'] then return ahead end
    if not ahead[1] then redis.call('HSET', KEYS[2], ARGV[2] .. ':pos:main', ARGV[3]) end
  end
end

local from = '(' .. ARGV[3]
local held
if ARGV[6] == '' then
  held = redis.pcall('XPENDING', KEYS[1], ARGV[1], from, '+', ARGV[8])
else
  local idle = math.max(now_ms - tonumber(begun) + 1, 1)
  held = redis.pcall('XPENDING', KEYS[1], ARGV[1], 'IDLE', string.format('%d', idle), from, '+', ARGV[8])
end
if held['err'] then return held end
local ids = {}
for i = 1, #held do ids[i] = held[i][1] end
if #ids > 0 then redis.call('XACK', KEYS[1], ARGV[1], unpack(ids)) end
return {'moved', begun, #ids}
