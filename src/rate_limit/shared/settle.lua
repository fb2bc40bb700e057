-- Brings buckets in line with what was given away while this server was not asked.
--
-- KEYS: the buckets, as in gcra.lua. ARGV, three for each: microseconds in which a token comes back, how
-- many tokens a full bucket has, how many are missing of it (below 0: how many too many were taken). An
-- empty bucket may miss as many again: what was given away elsewhere is waited for.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
for i = 1, #KEYS do
  local a = i * 3 - 2
  local one = tonumber(ARGV[a])
  local at = math.max(tonumber(redis.call('GET', KEYS[i]) or now) or now, now) + one * ARGV[a + 2]
  at = math.min(at, now + 2 * one * ARGV[a + 1])
  if at > now then
    redis.call('SET', KEYS[i], string.format('%.3f', at), 'PX', math.ceil((at - now) / 1000))
  else
    redis.call('DEL', KEYS[i])
  end
end
return #KEYS
