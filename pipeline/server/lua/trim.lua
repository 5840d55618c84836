-- trim: removes the oldest entries, none that some group has not settled.
--
-- KEYS  1 stream  2 S:groups
-- ARGV  1 entry id: what is below it may go  2 most entries to remove, or 0 to remove nothing and answer what could go
-- Returns {removed, entry id below which all is settled (at most ARGV 1), group that needs what lies at that id or ''}.
--       Removed is 0 when nothing is left to remove.
--
-- A group needs its oldest pending entry and all it has not read. One in S:groups that the server does not list is
-- lost, not gone: it needs all from its saved position on.

local function parts(id) return string.match(id, '^(%d+)-(%d+)$') end

local function below(a, b) -- sequence numbers exceed what a Lua number holds exactly
  local a_ms, a_seq = parts(a)
  local b_ms, b_seq = parts(b)
  if a_ms ~= b_ms then return tonumber(a_ms) < tonumber(b_ms) end
  if #a_seq ~= #b_seq then return #a_seq < #b_seq end
  return a_seq < b_seq
end

local function after(id) -- the next id; where that cannot be counted exactly, the same one: a group then keeps one more
  local ms, seq = parts(id)
  if #seq > 15 then return id end
  return ms .. '-' .. string.format('%d', tonumber(seq) + 1)
end

local function escaped(name)
  return (string.gsub(name, '[%%:{}]', {['%'] = '%25', [':'] = '%3A', ['{'] = '%7B', ['}'] = '%7D'}))
end

local floor, holder = ARGV[1], ''
local function needs(group, id)
  if below(id, floor) then floor, holder = id, group end
end

local listed = {}
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups['err'] then return groups end
for _, row in ipairs(groups) do
  local facts = {}
  for i = 1, #row, 2 do facts[row[i]] = row[i + 1] end
  listed[escaped(facts['name'])] = true
  local oldest = redis.call('XPENDING', KEYS[1], facts['name'], '-', '+', 1)
  if oldest[1] then needs(facts['name'], oldest[1][1]) end
  needs(facts['name'], after(facts['last-delivered-id'])) -- below what pends, where a reset was killed in its midst
end
for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
  local group = string.match(field, '^([^:]+):since$')
  if group and not listed[group] then
    local saved = redis.call('HGET', KEYS[2], group .. ':pos:main')
    needs(group, saved and after(saved) or '0-0')
  end
end

local most = tonumber(ARGV[2])
local removed = 0
if most > 0 then
  removed = redis.call('XTRIM', KEYS[1], 'MINID', '~', floor, 'LIMIT', most)
  -- whole nodes are gone: what is left below the floor is part of one
  if removed == 0 then removed = redis.call('XTRIM', KEYS[1], 'MINID', '=', floor) end
end
return {removed, floor, holder}
