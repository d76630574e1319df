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

    /** A prompt in which every item has its segments. */
    public static final class Expanded {
        public final int[] ids;
        /** 0 is text, k is row k - 1 of all features. */
        public final long[] places;
        /** Position of each item's segments. */
        public final int[] starts;

        Expanded(int[] ids, long[] places, int[] starts) {
            this.ids = ids;
            this.places = places;
            this.starts = starts;
        }
    }

    /** A part of what stands for a medium in the prompt: so many feature rows, or the ids of text that its markup has there. */
    public static final class Segment {
        final int rows;
        final int[] ids;

        private Segment(int rows, int[] ids) {
            this.rows = rows;
            this.ids = ids;
        }

        public static Segment rows(int rows) {
            return new Segment(rows, new int[0]);
        }

        public static Segment text(int[] ids) {
            return new Segment(0, ids);
        }

        int length() {
            return rows + ids.length;
        }

        /** Feature rows among segments. */
        public static int rowsOf(List<Segment> segments) {
            int sum = 0;
            for (Segment segment : segments) {
                sum += segment.rows;
            }
            return sum;
        }
    }

    /** Put the segments of every medium in the place of its placeholder. */
    public Expanded expand(List<List<Segment>> media) {
        if (media.size() != positions.length) {
            throw new IllegalArgumentException(media.size() + " media for " + positions.length + " places");
        }
        long length = ids.length - positions.length;
        int[] itemAt = new int[ids.length];
        long[] firstRows = new long[positions.length];
        long first = 1;
        for (int item = 0; item < positions.length; item++) {
            itemAt[positions[item]] = item + 1;
            firstRows[item] = first;
            for (Segment segment : media.get(item)) {
                first += segment.rows;
                length += segment.length();
            }
        }
        if (length > Integer.MAX_VALUE / 2) {
            throw PalmtopException.input("the prompt has " + length + " tokens, which no context holds");
        }
        int[] expanded = new int[(int) length];
        long[] places = new long[(int) length];
        int[] starts = new int[positions.length];
        int at = 0;
        for (int i = 0; i < ids.length; i++) {
            if (itemAt[i] == 0) {
                expanded[at++] = ids[i];
                continue;
            }
            int item = itemAt[i] - 1;
            starts[item] = at;
            long row = firstRows[item];
            for (Segment segment : media.get(item)) {
                for (int id : segment.ids) {
                    expanded[at++] = id;
                }
                for (int count = 0; count < segment.rows; count++) {
                    places[at] = row++;
                    expanded[at++] = ids[i];
                }
            }
        }
        return new Expanded(expanded, places, starts);
    }
}
