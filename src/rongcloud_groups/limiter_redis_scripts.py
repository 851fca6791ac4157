"""What Redis does for `RedisLimiter`, each in one atomic step on Redis's own clock; Redis 6.2 or later, Valkey.

The budget of an App Key is a hash: the next free slot, and what refusals left of the rate (see `limiter.Throttle`,
whose arithmetic this is). Times are seconds of Redis's clock, exact to a microsecond.
"""

from rongcloud_groups.limiter import CUT, LEAST_SHARE, LONGEST_PAUSE, PAUSE, RECOVERY, SILENCE, slot_gap

HORIZON = 1.0
"""Seconds ahead of now within which a process takes more than one slot."""

_BUDGET = (
    f"""
local CUT, LEAST_SHARE, RECOVERY = {CUT}, {LEAST_SHARE}, {RECOVERY}
local PAUSE, LONGEST_PAUSE, SILENCE = {PAUSE}, {LONGEST_PAUSE}, {SILENCE}
local GAP_AT_1, HORIZON = {slot_gap(1)}, {HORIZON}
"""
    """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local limit = tonumber(ARGV[1])
local budget = redis.call('HMGET', KEYS[1], 'next_slot', 'paused_until', 'cut_at', 'cut_from')
local next_slot, paused_until = tonumber(budget[1] or ''), tonumber(budget[2] or '')
local cut_at, cut_from = tonumber(budget[3] or ''), tonumber(budget[4] or '')
-- None yet, or lost, or the clock was set back: nobody knows what left in the last second.
if not (next_slot and paused_until and cut_at and cut_from)
    or math.max(next_slot, paused_until) > now + 2 * LONGEST_PAUSE or cut_at > now then
  next_slot, paused_until, cut_at, cut_from = now + SILENCE, 0, 0, 0
end

local function rate()
  if cut_from == 0 then return limit end
  local steepness = limit * (1 - CUT) / RECOVERY ^ 3
  local back = (cut_from * (1 - CUT) / steepness) ^ (1 / 3)
  local climbed = cut_from + steepness * (now - cut_at - back) ^ 3
  return math.min(limit, math.max(climbed, limit * LEAST_SHARE))
end

local function exactly(number) return string.format('%.6f', number) end

local function write()
  redis.call('HSET', KEYS[1], 'next_slot', exactly(next_slot), 'paused_until', exactly(paused_until),
    'cut_at', exactly(cut_at), 'cut_from', exactly(cut_from))
end
"""
)
RESERVE = (
    _BUDGET
    + """
local wanted, lead, over = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local gap = GAP_AT_1 / rate()
local first = math.max(now + lead, next_slot + over, paused_until)
local slots = math.min(wanted, math.max(1, math.floor((now + HORIZON - first) / gap)))
if slots > 0 then next_slot = first + slots * gap else next_slot = next_slot + over end
write()
return {exactly(now), exactly(first), exactly(gap), slots, exactly(paused_until), exactly(rate())}
"""
)
REFUSED = (
    _BUDGET
    + """
local age, jitter, retry_after = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
-- Slots reserved before the pause may be used in it by other processes; that they are refused is no news.
if now - age >= math.max(cut_at, paused_until) then
  local present = rate()
  cut_from, cut_at = present < cut_from and present * (1 + CUT) / 2 or present, now
  paused_until = math.max(paused_until, now + PAUSE + jitter)
end
if retry_after >= 0 then
  paused_until = math.max(paused_until, now + math.min(retry_after, LONGEST_PAUSE) + jitter)
end
write()
return {exactly(paused_until), exactly(math.max(0, paused_until - now)), exactly(rate())}
"""
)
