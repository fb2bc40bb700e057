-- One judgement on several buckets: a token of each is taken, or of none.
--
-- KEYS: the buckets. ARGV, four for each: microseconds in which a token comes back, how many tokens a
-- full bucket has, "1" where a token is to be taken ("0": only look), "1" where a refusal binds.
-- A bucket is the time at which it is full again, in microseconds of this server's clock (GCRA's
-- "theoretical arrival time"); one that is not there is full.
-- Answer, four for each: 1 where it admits; tokens left; microseconds until it admits; until it is full.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local kept = redis.call('MGET', unpack(KEYS))
local full_at, admits, all = {}, {}, true
local function keep(key, at)
  redis.call('SET', key, string.format('%.3f', at), 'PX', math.ceil((at - now) / 1000))
end
for i = 1, #KEYS do
  local a = i * 4 - 3
  local one = tonumber(ARGV[a])
  local depth = one * ARGV[a + 1]
  local at = math.max(tonumber(kept[i] or now) or now, now)
  if at > now + 2 * depth then
    -- Further ahead than what may be missing: the clock was set back. It is empty from now on, not worse.
    at = now + depth
    keep(KEYS[i], at)
  end
  full_at[i] = at
  -- Half a microsecond for what rounding adds up to.
  admits[i] = at + one - now <= depth + 0.5
  if not admits[i] and ARGV[a + 3] == '1' then all = false end
end
local answer = {}
for i = 1, #KEYS do
  local a = i * 4 - 3
  local one = tonumber(ARGV[a])
  local depth = one * ARGV[a + 1]
  local at = full_at[i]
  if all and admits[i] and ARGV[a + 2] == '1' then
    at = at + one
    keep(KEYS[i], at)
  end
  local left = math.max(math.floor((now + depth - at + 0.5) / one), 0)
  local wait = 0
  if not admits[i] then wait = math.max(math.ceil(at + one - now - depth), 1) end
  local n = #answer
  answer[n + 1], answer[n + 2] = admits[i] and 1 or 0, left
  answer[n + 3], answer[n + 4] = wait, math.ceil(at - now)
end
return answer
