-- The service refused a request. ARGV[2]: seconds since it left; ARGV[3]: seconds to add to a pause; ARGV[4]: seconds
-- that the service asks to wait, or -1.
local age, jitter, retry_after = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
-- Slots that were reserved before the pause may be used in it by other processes: their refusals cut nothing more.
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
