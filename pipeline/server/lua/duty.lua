-- duty: one heartbeat of a member; shares out who sweeps and promotes for the group, and answers what it must know.
--
-- KEYS  1 S:groups  2 S:members:<group>  3 S:duty:<group>  4 S:retry:<group>  5 S:never
--       6 S:retry-bodies:<group>
-- ARGV  1 group, escaped  2 member  3 the member's claim_after, ms  4 1 if it wants the duty, 0 if it gives it up,
--       -1 if it leaves the group, -2 if it leaves entries behind that others are to take  5 how long the duty is held, ms  6 the sweep mark whose pass is complete, or ''
--       7 events that ended with this member since it last said so  8 and how many of them died  9 how many of the last
--       events of the group are judged
-- Returns {now_ms, on_duty, claim_after_ms, token, sweep mark, next due ms, pause, ended, died,
--       [member, claim_after_ms, age_ms]…}:
--       on_duty 1 or 0; mark, due and pause are '' where there is none; ended and died: of the last ARGV 9 events, and
--       some more, as members tell of many at a time; members only for the one on duty.
--
-- An age is below 0 once if the clock was set back after that heartbeat.
--
-- claim_after of the group is the largest of its members'. Only the member on duty lists them all, so that the cost
-- of a heartbeat does not grow with the group.

redis.call('DEL', KEYS[5])
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local own = tonumber(ARGV[3])
if ARGV[4] == '-1' then
  redis.call('HDEL', KEYS[2], ARGV[2])
elseif ARGV[4] == '-2' then
  redis.call('HSET', KEYS[2], ARGV[2], ARGV[3] .. ':0') -- silent for ever: missed at once, retired once it holds nothing
else
  redis.call('HSET', KEYS[2], ARGV[2], ARGV[3] .. ':' .. string.format('%d', now_ms))
end

local on_duty = 0
local holder = redis.call('GET', KEYS[3])
if ARGV[4] == '1' then
  -- held for longer than anybody holds it: the clock was set back, and its holder may be long gone
  if not holder or holder == ARGV[2] or redis.call('PTTL', KEYS[3]) > tonumber(ARGV[5]) then
    redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[5])
    on_duty = 1
  end
elseif holder == ARGV[2] then
  redis.call('DEL', KEYS[3])
end

local mark = redis.call('HGET', KEYS[1], ARGV[1] .. ':sweep')
if mark and mark == ARGV[6] then
  redis.call('HDEL', KEYS[1], ARGV[1] .. ':sweep')
  mark = false
end
-- What ended lately, as members told of it: `ended:died` each, the newest first, until they add up to enough.
local ended, died, told = tonumber(ARGV[7]), tonumber(ARGV[8]), {}
local before = redis.call('HGET', KEYS[1], ARGV[1] .. ':ended') or ''
if ended > 0 then told[1] = ARGV[7] .. ':' .. ARGV[8] end
for some, dead in string.gmatch(before, '(%d+):(%d+)') do
  if ended >= tonumber(ARGV[9]) then break end
  ended, died = ended + some, died + dead
  told[#told + 1] = some .. ':' .. dead
end
if ARGV[7] ~= '0' then redis.call('HSET', KEYS[1], ARGV[1] .. ':ended', table.concat(told, ' ')) end

local due = redis.call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')[2]
-- due times were evicted, and not what they were for: promote puts it right
if not due and redis.call('EXISTS', KEYS[6]) == 1 then due = string.format('%d', now_ms) end
local known = tonumber(redis.call('HGET', KEYS[1], ARGV[1] .. ':claim_after') or '0')
local token = redis.call('HGET', KEYS[1], ARGV[1] .. ':token')
if not token and tonumber(ARGV[4]) >= 0 then
  -- S:groups was deleted: a missing token must not come back, or two losses would look like none
  token = string.format('%d', now_ms) .. '-' .. ARGV[2]
  redis.call('HSET', KEYS[1], ARGV[1] .. ':token', token)
end
local answer = {now_ms, on_duty, 0, token or '', mark or '', due or '',
  redis.call('HGET', KEYS[1], ARGV[1] .. ':paused') or '', ended, died}
local longest = math.max(own, known)
if on_duty == 1 then
  longest = own
  local members = redis.call('HGETALL', KEYS[2])
  for i = 1, #members, 2 do
    local claim_after, seen = string.match(members[i + 1], '^(%d+):(%d+)$')
    if claim_after then
      local age = now_ms - tonumber(seen)
      -- a member silent for twice its claim_after no longer decides how long the others wait
      if age <= 2 * tonumber(claim_after) then longest = math.max(longest, tonumber(claim_after)) end
      answer[#answer + 1] = members[i]
      answer[#answer + 1] = tonumber(claim_after)
      answer[#answer + 1] = age
      -- a heartbeat from the time to come: the clock was set back since. It counts from now on, or it would be for ever
      if age < 0 then redis.call('HSET', KEYS[2], members[i], claim_after .. ':' .. string.format('%d', now_ms)) end
    end
  end
end
if longest ~= known and tonumber(ARGV[4]) >= 0 then
  redis.call('HSET', KEYS[1], ARGV[1] .. ':claim_after', string.format('%d', longest))
end
answer[3] = longest
return answer
