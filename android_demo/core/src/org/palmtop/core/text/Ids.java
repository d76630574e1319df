package org.palmtop.core.text;

import java.util.Arrays;
import java.util.Set;

/** A growing list of token ids. */
public final class Ids {
    private int[] ids = new int[16];
    private int count;

    public void add(int id) {
        if (count == ids.length) {
            ids = Arrays.copyOf(ids, 2 * count);
        }
        ids[count++] = id;
    }

    public void addAll(int[] more) {
        for (int id : more) {
            add(id);
        }
    }

    public int size() {
        return count;
    }

    public int[] toArray() {
        return Arrays.copyOf(ids, count);
    }

    boolean holdsAny(Set<Integer> wanted) {
        for (int i = 0; i < count; i++) {
            if (wanted.contains(ids[i])) {
                return true;
            }
        }
        return false;
    }
}
