package org.palmtop.core.text;

import java.util.Arrays;
import java.util.PriorityQueue;

/** The merges of a byte-pair encoding and how they are applied: the earliest in the list first, then from the left. */
final class Merges {
    private long[] pairs = new long[1 << 9];
    private int[] ranks = new int[1 << 9];
    private int[] merged = new int[1 << 8];
    private int count;

    Merges() {
        Arrays.fill(pairs, -1);
    }

    /** The next merge of the list. */
    void add(int left, int right, int result) {
        if (4 * (count + 1) > 2 * pairs.length) {
            grow();
        }
        if (count == merged.length) {
            merged = Arrays.copyOf(merged, 2 * count);
        }
        merged[count] = result;
        put((long) left << 32 | right, count++);
    }

    /** Merge in place; gives the new length. */
    int apply(int[] ids, int length) {
        int[] next = new int[length];
        int[] previous = new int[length];
        PriorityQueue<Long> queue = new PriorityQueue<Long>();
        for (int i = 0; i < length; i++) {
            next[i] = i + 1 < length ? i + 1 : -1;
            previous[i] = i - 1;
            offer(queue, ids, i, next[i]);
        }
        while (!queue.isEmpty()) {
            long entry = queue.poll();
            int rank = (int) (entry >>> 32);
            int at = (int) entry;
            int right = next[at];
            // An entry is stale when either side has been merged since.
            if (ids[at] < 0 || right < 0 || rank(ids[at], ids[right]) != rank) {
                continue;
            }
            ids[at] = merged[rank];
            ids[right] = -1;
            next[at] = next[right];
            if (next[at] >= 0) {
                previous[next[at]] = at;
            }
            offer(queue, ids, at, next[at]);
            if (previous[at] >= 0) {
                offer(queue, ids, previous[at], at);
            }
        }
        int kept = 0;
        for (int i = 0; i >= 0 && length > 0; i = next[i]) {
            ids[kept++] = ids[i];
        }
        return kept;
    }

    private void offer(PriorityQueue<Long> queue, int[] ids, int left, int right) {
        int rank = right < 0 ? -1 : rank(ids[left], ids[right]);
        if (rank >= 0) {
            queue.add((long) rank << 32 | left);
        }
    }

    private int rank(int left, int right) {
        long pair = (long) left << 32 | right;
        int slot = slot(pair);
        return pairs[slot] == pair ? ranks[slot] : -1;
    }

    private void put(long pair, int rank) {
        int slot = slot(pair);
        pairs[slot] = pair; // a merge that is listed twice has its last place, as in the tokenizers library
        ranks[slot] = rank;
    }

    private int slot(long pair) {
        long hash = pair * 0x9e3779b97f4a7c15L;
        int slot = (int) (hash >>> 40) & (pairs.length - 1);
        while (pairs[slot] >= 0 && pairs[slot] != pair) {
            slot = (slot + 1) & (pairs.length - 1);
        }
        return slot;
    }

    private void grow() {
        long[] oldPairs = pairs;
        int[] oldRanks = ranks;
        pairs = new long[2 * oldPairs.length];
        ranks = new int[2 * oldRanks.length];
        Arrays.fill(pairs, -1);
        for (int i = 0; i < oldPairs.length; i++) {
            if (oldPairs[i] >= 0) {
                put(oldPairs[i], oldRanks[i]);
            }
        }
    }
}
