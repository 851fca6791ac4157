-- Reserve slots. ARGV[2]: seconds that one takes to get to the process; ARGV[3]: seconds after its time for which it may
-- be used; ARGV[4]: slots wanted; then, of each slot that was used or given up, the name, when its request left, or -1,
-- and how late the process was for it.
local lead, usable_for, wanted = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local sent = KEYS[2]

for index = 5, #ARGV, 3 do
  local name, left_at, seconds_late = ARGV[index], tonumber(ARGV[index + 1]), tonumber(ARGV[index + 2])
  if left_at < 0 then
    redis.call('ZREM', sent, name)
    left_at = now
  else
    redis.call('ZADD', sent, 'XX', exactly(left_at), name)
  end
  note_lateness(seconds_late, left_at)
end

local slots, first = {}, number
while #slots < wanted do
  local oldest = redis.call('ZREVRANGE', sent, requests - 1, requests - 1, 'WITHSCORES')[2]
  local opens = oldest and oldest + seconds + JITTER + lateness(now) or 0
  local slot = math.max(now + lead - catch_up(now), next_slot, paused_until, opens)
  if #slots > 0 and slot > now + HORIZON then break end
  redis.call('ZADD', sent, exactly(slot + usable_for), string.format('%.0f', number))
  table.insert(slots, exactly(slot))
  number, next_slot = number + 1, slot + gap()
end
redis.call('ZREMRANGEBYRANK', sent, 0, -MAX_HISTORY - 1)
write()
return {exactly(now), exactly(paused_until), exactly(rate()), tostring(limit_before), is_new and 1 or 0, exactly(set_back),
  string.format('%.0f', first), unpack(slots)}
