// In place of @react-native-async-storage/async-storage: the storage of a phone, in memory.
const items = new Map();

export default {
  getItem: async (key) => items.get(key) ?? null,
  setItem: async (key, value) => void items.set(key, value),
  removeItem: async (key) => void items.delete(key),
  clear: async () => items.clear(),
  getAllKeys: async () => [...items.keys()],
};
