"""What Redis does for `RedisLimiter`, each in one atomic step on Redis's own clock; Redis 6.2 or later, Valkey.

The budget of an App Key is three keys: a hash with the next free slot, how late a process came lately, and what
refusals left of the rate (see `limiter.Throttle` and `limiter_host.Budget`, whose arithmetic this is); a sorted set
with the latest slots and when their requests left, or will at the latest; a sorted set with the slots of those that are
only claimed. A claim has to be confirmed before it is used, so that one whose owner died is known to be free. Times are
seconds of Redis's clock, exact to a microsecond.
"""

from rongcloud_groups.limiters.schedule import (
    LATENESS_DECAY,
    MAX_HISTORY,
    MAX_LATE,
    QUIET_PERIOD,
    SHARED_JITTER,
    WAKE_UP_SLACK,
)
from rongcloud_groups.limiters.throttle import DECREASE_FACTOR, MAX_PAUSE, MIN_SHARE, PAUSE, RECOVERY_TIME

CLOCK_ERROR = 0.001
"""Seconds by which a process may misjudge Redis's clock."""

CATCH_UP = 0.8
"""Least part of the regular gap between two slots while unused ones are made good."""
MAX_BEHIND = 0.1
"""Most seconds by which slots come later than the limit would let them while that is made good."""
HORIZON = 1.0
"""Seconds ahead of now within which a process takes more than one slot."""
SOON = 0.03
"""Seconds ahead of now, besides two round trips, within which a slot need not be claimed first."""

_BUDGET = (
    f"""
local DECREASE_FACTOR, MIN_SHARE, RECOVERY_TIME = {DECREASE_FACTOR}, {MIN_SHARE}, {RECOVERY_TIME}
local PAUSE, MAX_PAUSE, QUIET_PERIOD = {PAUSE}, {MAX_PAUSE}, {QUIET_PERIOD}
local JITTER, MAX_LATE, LATENESS_DECAY = {SHARED_JITTER}, {MAX_LATE}, {LATENESS_DECAY}
local CATCH_UP, MAX_BEHIND = {CATCH_UP}, {MAX_BEHIND}
local MAX_HISTORY, HORIZON, SOON, WAKE_UP_SLACK = {MAX_HISTORY}, {HORIZON}, {SOON}, {WAKE_UP_SLACK}
"""
    """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local limit = tonumber(ARGV[1])
local budget = redis.call('HMGET', KEYS[1], 'next_slot', 'paused_until', 'cut_at', 'cut_from', 'number',
  'late', 'late_at')
local next_slot, paused_until = tonumber(budget[1] or ''), tonumber(budget[2] or '')
local cut_at, cut_from = tonumber(budget[3] or ''), tonumber(budget[4] or '')
local number = tonumber(budget[5] or '')
local late, late_at = tonumber(budget[6] or '0'), tonumber(budget[7] or '0')
-- None yet, or lost, or the clock was set back: nobody knows what left in the last second.
if not (next_slot and paused_until and cut_at and cut_from and number)
    or math.max(next_slot, paused_until) > now + 2 * MAX_PAUSE or cut_at > now then
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
  next_slot, paused_until, cut_at, cut_from, number = now + QUIET_PERIOD, 0, 0, 0, math.floor(now * 1000000)
end

local function rate()
  if cut_from == 0 then return limit end
  local steepness = limit * (1 - DECREASE_FACTOR) / RECOVERY_TIME ^ 3
  local back = (cut_from * (1 - DECREASE_FACTOR) / steepness) ^ (1 / 3)
  local climbed = cut_from + steepness * (now - cut_at - back) ^ 3
  return math.min(limit, math.max(climbed, limit * MIN_SHARE))
end

local function lateness() return late * math.exp(math.min(0, late_at - now) / LATENESS_DECAY) end

local function exactly(number) return string.format('%.6f', number) end

local function write()
  redis.call('HSET', KEYS[1], 'next_slot', exactly(next_slot), 'paused_until', exactly(paused_until),
    'cut_at', exactly(cut_at), 'cut_from', exactly(cut_from), 'number', string.format('%.0f', number),
    'late', exactly(late), 'late_at', exactly(late_at))
end
"""
)
RESERVE = (
    _BUDGET
    + """
local lead, wanted, to_confirm = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local sent, claimed = KEYS[2], KEYS[3]

for _, slot in ipairs(redis.call('ZRANGEBYSCORE', claimed, '-inf', exactly(now - MAX_LATE))) do
  redis.call('ZREM', claimed, slot)
  redis.call('ZREM', sent, slot)
end
local confirmed = 0
for index = 5, 4 + to_confirm do confirmed = confirmed + redis.call('ZREM', claimed, ARGV[index]) end
-- Of slots that were used, when their requests left; -1 for one that was not used.
for index = 5 + to_confirm, #ARGV, 2 do
  local name, left_at = ARGV[index], tonumber(ARGV[index + 1])
  local slot = tonumber(redis.call('ZSCORE', sent, name) or '-inf') - MAX_LATE
  if left_at < 0 then redis.call('ZREM', sent, name)
  else redis.call('ZADD', sent, 'XX', exactly(left_at), name) end
  local came_late = math.min(left_at - slot, MAX_LATE) - WAKE_UP_SLACK
  if slot > 0 and came_late > lateness() then late, late_at = came_late, now end
end

local parts = math.ceil(limit / MAX_HISTORY)
local requests = math.max(1, math.floor(limit / parts))
local window = math.max(1 / parts, 1 / limit) + JITTER + lateness()
local slots, first, firm = {}, number, 0
while #slots < wanted do
  local oldest = redis.call('ZREVRANGE', sent, requests - 1, requests - 1, 'WITHSCORES')[2] or '-inf'
  local opens = tonumber(oldest) + window
  local slot = math.max(now + lead, next_slot, paused_until, opens)
  if #slots > 0 and slot > now + HORIZON then break end
  local name = string.format('%.0f', number)
  table.insert(slots, exactly(slot))
  redis.call('ZADD', sent, exactly(slot + MAX_LATE), name)
  if slot <= now + 2 * lead + SOON then firm = firm + 1 else redis.call('ZADD', claimed, exactly(slot), name) end
  local catches_up = rate() == limit and slot - opens <= MAX_BEHIND
  number, next_slot = number + 1, slot + (catches_up and CATCH_UP / limit or 1 / rate())
end
redis.call('ZREMRANGEBYRANK', sent, 0, -MAX_HISTORY - 1)
write()
first = string.format('%.0f', first)
return {exactly(now), exactly(paused_until), exactly(rate()), confirmed, firm, first, unpack(slots)}
"""
)
REFUSED = (
    _BUDGET
    + """
local age, jitter, retry_after = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
-- Slots reserved before the pause may be used in it by other processes; that they are refused is no news.
if now - age >= math.max(cut_at, paused_until) then
  local present = rate()
  cut_from, cut_at = present < cut_from and present * (1 + DECREASE_FACTOR) / 2 or present, now
  paused_until = math.max(paused_until, now + PAUSE + jitter)
end
if retry_after >= 0 then
  paused_until = math.max(paused_until, now + math.min(retry_after, MAX_PAUSE) + jitter)
end
write()
return {exactly(paused_until), exactly(math.max(0, paused_until - now)), exactly(rate())}
"""
)
