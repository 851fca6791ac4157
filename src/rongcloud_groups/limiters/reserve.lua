-- Reserve slots. ARGV[2]: seconds that one takes to get to the process; ARGV[3]: seconds after its time for which it may
-- be used; ARGV[4]: slots wanted; ARGV[5]: seconds ahead within which a slot is the process's at once, while it only
-- claims one that is further ahead; ARGV[6]: seconds after its time for which a confirmed claim may be used; ARGV[7]: how
-- many claims the process confirms; their names; then, of each slot that was used or given up, the name, when its
-- request left, or its time below 0, and how late the process was for it.
-- A slot that was given up before its time, or claimed and not confirmed, is handed on as it is, which changes nothing
-- that was counted on.
local sent, free, claimed = KEYS[2], KEYS[3], KEYS[4]
local arguments = {}
for index = 2, 7 do table.insert(arguments, tonumber(ARGV[index])) end
local lead, usable_for, wanted, firm_within, confirmed_for, claims = unpack(arguments)

local slots, confirmed = {}, 0
for index = 8, 7 + claims do
  local name = ARGV[index]
  local slot = redis.call('ZSCORE', claimed, name) or redis.call('ZSCORE', free, name)
  if slot then
    redis.call('ZREM', claimed, name)
    redis.call('ZREM', free, name)
    redis.call('ZADD', sent, 'XX', 'LT', exactly(slot + confirmed_for), name)
    table.insert(slots, name)
    confirmed = confirmed + 1
  end
end

for index = 8 + claims, #ARGV, 3 do
  local name, left_at, seconds_late = ARGV[index], tonumber(ARGV[index + 1]), tonumber(ARGV[index + 2])
  if left_at >= 0 then
    redis.call('ZADD', sent, 'XX', exactly(left_at), name)
  elseif redis.call('ZSCORE', sent, name) and -left_at > now then
    redis.call('ZADD', free, exactly(-left_at), name)
  else
    redis.call('ZREM', sent, name)
  end
  note_lateness(seconds_late, left_at < 0 and now or left_at)
end

-- A claim lapses one request before its time, when the process of the next slot confirms that.
local lapsed = redis.call('ZRANGEBYSCORE', claimed, '-inf', exactly(now + 1 / full_rate), 'WITHSCORES')
for index = 1, #lapsed, 2 do
  redis.call('ZREM', claimed, lapsed[index])
  redis.call('ZADD', free, lapsed[index + 1], lapsed[index])
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', free, '-inf', exactly(now - catch_up(now)))) do
  redis.call('ZREM', sent, name)
  redis.call('ZREM', free, name)
end

-- Seconds for which slots were reserved ahead before a call, on average over the time of some calls. Processes far away
-- come to call at the same moments, in the same order: without it the first one would always see the fewest.
local weight = lead > 0 and 1 - math.exp(math.min(0, seen_at - now) / (CALLS_AVERAGED * lead)) or 1
queue = queue + weight * (math.max(0, next_slot - now) - queue)

local function hand_out(name, slot, usable_until)
  if slot > now + firm_within then redis.call('ZADD', claimed, exactly(slot), name) end
  for _, value in ipairs({name, exactly(slot), exactly(usable_until)}) do table.insert(slots, value) end
end

for nth = 1, wanted do
  local earliest = math.max(now + lead - catch_up(now), paused_until)
  local name, slot = unpack(redis.call('ZRANGEBYSCORE', free, exactly(earliest), '+inf', 'WITHSCORES', 'LIMIT', 0, 1))
  local usable_until = name and redis.call('ZSCORE', sent, name)
  -- Half of the time is enough: the event loop of this process may be a little later than that of the one before.
  if usable_until and usable_until - slot >= usable_for / 2 then
    redis.call('ZREM', free, name)
    hand_out(name, tonumber(slot), usable_until)
  else
    local oldest = redis.call('ZREVRANGE', sent, requests - 1, requests - 1, 'WITHSCORES')[2]
    local opens = (oldest or -math.huge) + seconds + SHARED_JITTER + lateness(now)
    slot = math.max(earliest, next_slot, opens)
    if nth > 1 and slot > now + HORIZON then break end
    name = string.format('%.0f', number)
    redis.call('ZADD', sent, exactly(slot + usable_for), name)
    hand_out(name, slot, slot + usable_for)
    number, next_slot = number + 1, slot + gap()
  end
end
redis.call('ZREMRANGEBYRANK', sent, 0, -MAX_HISTORY - 1)
write()
return {exactly(now), exactly(paused_until), exactly(rate()), tostring(limit_before), is_new and 1 or 0, exactly(set_back),
  exactly(queue), confirmed, unpack(slots)}
