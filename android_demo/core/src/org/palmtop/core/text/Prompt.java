package org.palmtop.core.text;

import java.util.List;
import org.palmtop.core.PalmtopException;

/** A rendered conversation: ids with one placeholder for each image and sound, and where those stand. */
public final class Prompt {
    public final int[] ids;
    /** For each media item of the messages, in order: the position of its placeholder. */
    public final int[] positions;

    Prompt(int[] ids, int[] positions) {
        this.ids = ids;
        this.positions = positions;
    }

    /** A prompt in which every item has as many ids as feature rows. */
    public static final class Expanded {
        public final int[] ids;
        /** 0 is text, k is row k - 1 of all features. */
        public final long[] places;
        /** Where each item's rows begin. */
        public final int[] starts;

        Expanded(int[] ids, long[] places, int[] starts) {
            this.ids = ids;
            this.places = places;
            this.starts = starts;
        }
    }

    /** Give every media item as many ids as it has feature rows. */
    public Expanded expand(List<Integer> rowsPerItem) {
        if (rowsPerItem.size() != positions.length) {
            throw new IllegalArgumentException(rowsPerItem.size() + " counts for " + positions.length + " media");
        }
        long length = ids.length;
        int[] counts = new int[ids.length];
        long[] firstRows = new long[ids.length];
        long first = 1;
        for (int item = 0; item < positions.length; item++) {
            counts[positions[item]] = rowsPerItem.get(item);
            firstRows[positions[item]] = first;
            first += rowsPerItem.get(item);
            length += rowsPerItem.get(item) - 1L;
        }
        if (length > Integer.MAX_VALUE / 2) {
            throw PalmtopException.input("the prompt has " + length + " tokens, which no context holds");
        }
        int[] expanded = new int[(int) length];
        long[] places = new long[(int) length];
        int[] startAt = new int[ids.length];
        int at = 0;
        for (int i = 0; i < ids.length; i++) {
            startAt[i] = at;
            for (int row = 0; row < Math.max(counts[i], 1); row++) {
                places[at] = counts[i] > 0 ? firstRows[i] + row : 0;
                expanded[at++] = ids[i];
            }
        }
        int[] starts = new int[positions.length];
        for (int item = 0; item < starts.length; item++) {
            starts[item] = startAt[positions[item]];
        }
        return new Expanded(expanded, places, starts);
    }
}
