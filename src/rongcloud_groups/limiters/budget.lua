-- The state of a budget, and the arithmetic of schedule.SlotSchedule on it.
-- KEYS: a hash with the state; a sorted set of the latest slots by the time when their requests left, or may leave at
-- the latest; a sorted set of those that were given up before their time, by that time; and one of those that are claimed.
-- ARGV[1]: requests/s that the service allows.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local limit = tonumber(ARGV[1])
local state = redis.call('HMGET', KEYS[1], 'next_slot', 'paused_until', 'cut_at', 'cut_from', 'number',
  'late', 'late_at', 'limit', 'seen_at', 'queue')
for index = 1, 10 do state[index] = tonumber(state[index] or '') end
local next_slot, paused_until, cut_at, cut_from, number, late, late_at, limit_before, seen_at, queue = unpack(state, 1, 10)
limit_before, seen_at, queue = limit_before or limit, seen_at or now, queue or 0

-- schedule.Window
local parts = math.max(1, math.ceil(limit / MAX_HISTORY))
local requests, seconds = math.max(1, math.floor(limit / parts)), math.max(1 / parts, 1 / limit)
local full_rate = requests / seconds

-- New, evicted or damaged, or the clock was set back: it is not known which requests left in the last second.
local set_back = math.max(0, seen_at - now)
local is_new = not (next_slot and paused_until and cut_at and cut_from and number and late and late_at)
if is_new or set_back > CLOCK_STEP
    or math.max(next_slot, paused_until) > now + 2 * MAX_PAUSE or cut_at > now + CLOCK_STEP then
  redis.call('DEL', unpack(KEYS))
  next_slot, paused_until, cut_at, cut_from, number = now + QUIET_PERIOD, 0, 0, 0, math.floor(now * 1000000)
  late, late_at, is_new = 0, 0, true
end
cut_from = math.min(cut_from, full_rate)

local function rate()
  if cut_from == 0 then return full_rate end
  local steepness = full_rate * (1 - DECREASE_FACTOR) / RECOVERY_TIME ^ 3
  local back = (cut_from * (1 - DECREASE_FACTOR) / steepness) ^ (1 / 3)
  local climbed = cut_from + steepness * (now - cut_at - back) ^ 3
  return math.min(full_rate, math.max(climbed, full_rate * MIN_SHARE))
end

local function lateness(at) return late * math.exp(math.min(0, late_at - at) / LATENESS_DECAY) end

local function catch_up(at) return WAKE_UP_SLACK + lateness(at) end

local function gap()
  return math.max((seconds + SHARED_JITTER + WAKE_UP_SLACK + 2 * lateness(now)) / requests, 1 / rate())
end

local function note_lateness(seconds_late, at)
  seconds_late = math.min(seconds_late, MAX_LATE)
  if seconds_late > catch_up(at) + MICROSECOND then late, late_at = seconds_late - WAKE_UP_SLACK, at end
end

local function exactly(number) return string.format('%.17g', number) end

local function write()
  redis.call('HSET', KEYS[1], 'next_slot', exactly(next_slot), 'paused_until', exactly(paused_until),
    'cut_at', exactly(cut_at), 'cut_from', exactly(cut_from), 'number', string.format('%.0f', number),
    'late', exactly(late), 'late_at', exactly(late_at), 'limit', ARGV[1], 'seen_at', exactly(now),
    'queue', exactly(queue))
end
