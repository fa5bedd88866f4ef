--- include: base

-- KEYS meta, keys.
function signingKeys()
  return answer('', KEYS[2])
end

-- KEYS meta, keys; ARGV slot, JSON. Flag 'added', or '' when the slot is taken.
function addSigningKey()
  local added = redis.call('HSETNX', KEYS[2], ARGV[1], text(now) .. ':' .. ARGV[2])
  return answer(added == 1 and 'added' or '')
end

-- KEYS meta, keys; ARGV slot.
function removeSigningKeysBelow()
  for _, slot in ipairs(redis.call('HKEYS', KEYS[2])) do
    if tonumber(slot) < tonumber(ARGV[1]) then redis.call('HDEL', KEYS[2], slot) end
  end
  return answer('')
end

-- KEYS meta, lease; ARGV holder, ttl. Flag 'held' when the holder has it now. The value is the end of
-- the lease, a colon, and the holder.
function lease()
  local ends, holder = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+):(.*)$')
  if holder and holder ~= ARGV[1] and tonumber(ends) > now then return answer('') end
  local untilTime = text(now + ARGV[2])
  redis.call('SET', KEYS[2], untilTime .. ':' .. ARGV[1], 'PXAT', untilTime)
  return answer('held')
end
