-- group: makes sure a group exists on a stream and on its `again` stream; a lost one comes back where it was.
--
-- KEYS  1 stream  2 S:groups  3 S:again:<group>  4 S:never
-- ARGV  1 group  2 group, escaped  3 position for a new group (0-0, $ or an id)
--       4 1 if a member saw this group before: then it is lost, not new  5 random part of the claims token
--       6 '', or the name of the list queue whose tasks the stream holds
-- Returns {state, position, entries}: state exists | created | recreated | own lost (the group is there, and what was
--       due again for it is gone); position it was created at; entries in the stream. Or nothing was done:
--       {'list', name, 0}: the stream holds the tasks of that list, and not of ARGV 6
--       {'other', group, 0}: a list has one group, and this one's is another
--
-- The stream of a list holds nothing that is settled: its group begins at the start, whatever was saved.
--
-- A lost group (flush, failover, deletion) is recreated at its saved position, at the start where that is gone or lies
-- beyond the stream, and never silently at $. Deleting a key that never exists lets the script write on under OOM.

local function later(a, b) -- whether entry id a is above b; sequence numbers exceed what a Lua number holds exactly
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  if a_ms ~= b_ms then return tonumber(a_ms) > tonumber(b_ms) end
  if #a_seq ~= #b_seq then return #a_seq > #b_seq end
  return a_seq > b_seq
end

local function failed(reply) return type(reply) == 'table' and reply['err'] end

local listed = redis.call('HGET', KEYS[2], ':list') -- no group has an empty name
if listed and listed ~= ARGV[6] then return {'list', listed, 0} end
if ARGV[6] ~= '' then
  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
  if failed(groups) then
    if not string.find(groups['err'], 'no such key', 1, true) then return groups end
    groups = {}
  end
  for i = 1, #groups do
    if groups[i][2] ~= ARGV[1] then return {'other', groups[i][2], 0} end
  end
end
redis.call('DEL', KEYS[4])
if ARGV[6] ~= '' then redis.call('HSET', KEYS[2], ':list', ARGV[6]) end
local position = ARGV[3]
local state = 'created'
local last = '0-0'
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if failed(info) then
  if not string.find(info['err'], 'no such key', 1, true) then return info end
else
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
end
local known = ARGV[4] == '1' or redis.call('HEXISTS', KEYS[2], ARGV[2] .. ':since') == 1
if known then
  state = 'recreated'
  position = redis.call('HGET', KEYS[2], ARGV[2] .. ':pos:main') or '0-0'
  if ARGV[6] ~= '' or later(position, last) then position = '0-0' end
end

local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], position, 'MKSTREAM')
if failed(made) then
  if not string.find(made['err'], 'BUSYGROUP', 1, true) then return made end
  state = 'exists'
end
local own_there = redis.call('EXISTS', KEYS[3]) == 1
local again = redis.pcall('XGROUP', 'CREATE', KEYS[3], ARGV[1], '0-0', 'MKSTREAM')
if failed(again) and not string.find(again['err'], 'BUSYGROUP', 1, true) then return again end

local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('HSETNX', KEYS[2], ARGV[2] .. ':since', string.format('%d', now_ms))
if state ~= 'exists' then
  if position == '$' then position = last end
  redis.call('HSET', KEYS[2], ARGV[2] .. ':pos:main', position)
end
if state ~= 'exists' or not failed(again) then
  -- what somebody still holds may now be delivered to another; `made` tells it from what another has taken over
  local token = string.format('%d', now_ms) .. '-' .. ARGV[5]
  redis.call('HSET', KEYS[2], ARGV[2] .. ':token', token, ARGV[2] .. ':made', token)
end
if known and state == 'exists' and not own_there then state = 'own lost' end
return {state, position, redis.call('XLEN', KEYS[1])}
