package org.palmtop.core.text;

import java.util.Arrays;

/** Tokens as byte strings, both ways. Flat arrays: 200,000 tokens take 8 MB, not the 40 MB of a HashMap. */
final class Vocabulary {
    private byte[] bytes = new byte[1 << 12];
    private int used;
    private int[] starts = new int[1 << 8];
    private int[] lengths = new int[1 << 8];
    private int[] slots = new int[1 << 9];
    private int count;

    Vocabulary() {
        Arrays.fill(lengths, -1);
        Arrays.fill(slots, -1);
    }

    /** Add a token; only a {@code findable} one is what {@link #find} looks for. */
    void add(int id, byte[] token, boolean findable) {
        if (id >= lengths.length) {
            int size = Math.max(id + 1, 2 * lengths.length);
            int old = lengths.length;
            starts = Arrays.copyOf(starts, size);
            lengths = Arrays.copyOf(lengths, size);
            Arrays.fill(lengths, old, size, -1);
        }
        if (used + token.length > bytes.length) {
            bytes = Arrays.copyOf(bytes, Math.max(used + token.length, 2 * bytes.length));
        }
        System.arraycopy(token, 0, bytes, used, token.length);
        starts[id] = used;
        lengths[id] = token.length;
        used += token.length;
        if (findable) {
            if (2 * ++count > slots.length) {
                grow();
            }
            slots[slot(token, 0, token.length)] = id;
        }
    }

    /** The id of a byte string, or -1. */
    int find(byte[] token, int start, int length) {
        return slots[slot(token, start, length)];
    }

    /** The bytes of a token; null if there is none of this id. */
    byte[] bytesOf(int id) {
        if (id < 0 || id >= lengths.length || lengths[id] < 0) {
            return null;
        }
        return Arrays.copyOfRange(bytes, starts[id], starts[id] + lengths[id]);
    }

    private int slot(byte[] token, int start, int length) {
        int hash = 17;
        for (int i = start; i < start + length; i++) {
            hash = hash * 31 + token[i];
        }
        hash *= 0x9e3779b9;
        for (int slot = (hash ^ hash >>> 15) & (slots.length - 1); ; slot = (slot + 1) & (slots.length - 1)) {
            if (slots[slot] < 0 || isAt(slots[slot], token, start, length)) {
                return slot;
            }
        }
    }

    private boolean isAt(int id, byte[] token, int start, int length) {
        if (lengths[id] != length) {
            return false;
        }
        for (int i = 0; i < length; i++) {
            if (bytes[starts[id] + i] != token[start + i]) {
                return false;
            }
        }
        return true;
    }

    private void grow() {
        int[] old = slots;
        slots = new int[2 * old.length];
        Arrays.fill(slots, -1);
        for (int id : old) {
            if (id >= 0) {
                slots[slot(bytesOf(id), 0, lengths[id])] = id;
            }
        }
    }
}
