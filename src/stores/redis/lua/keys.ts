/** KEYS meta, keys. */
export const signingKeys = "return answer('', KEYS[2])";

/** KEYS meta, keys; ARGV slot, JSON. */
export const addSigningKey = `
local added = redis.call('HSETNX', KEYS[2], ARGV[1], text(now) .. ':' .. ARGV[2])
return answer(added == 1 and 'added' or '')
`;

/** KEYS meta, keys; ARGV slot. */
export const removeSigningKeysBelow = `
for _, slot in ipairs(redis.call('HKEYS', KEYS[2])) do
  if tonumber(slot) < tonumber(ARGV[1]) then redis.call('HDEL', KEYS[2], slot) end
end
return answer('')
`;

/** KEYS meta, lease; ARGV holder, ttl. The value is when it ends, a colon, and the holder. */
export const lease = `
local ends, holder = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+):(.*)$')
if holder and holder ~= ARGV[1] and tonumber(ends) > now then return answer('') end
local untilTime = text(now + ARGV[2])
redis.call('SET', KEYS[2], untilTime .. ':' .. ARGV[1], 'PXAT', untilTime)
return answer('held')
`;
