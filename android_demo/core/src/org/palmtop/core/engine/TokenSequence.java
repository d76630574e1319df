package org.palmtop.core.engine;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;

/** A sequence to be read: ids, where media stand in it, and whose they are. */
final class TokenSequence {
    static final TokenSequence NOTHING = new TokenSequence(new int[0], new long[0], Collections.<Span>emptyList());

    /** Position of an image or a sound; equal keys have equal features. */
    static final class Span {
        final int start;
        final int rows;
        final String key;

        Span(int start, int rows, String key) {
            this.start = start;
            this.rows = rows;
            this.key = key;
        }
    }

    final int[] ids;
    /** Feature rows as in the graph's {@code media_index}, numbered from 1 in order of appearance. */
    final long[] places;
    final List<Span> media;

    TokenSequence(int[] ids, long[] places, List<Span> media) {
        this.ids = ids;
        this.places = places;
        this.media = media;
    }

    int length() {
        return ids.length;
    }

    int mediaRows() {
        int sum = 0;
        for (Span span : media) {
            sum += span.rows;
        }
        return sum;
    }

    /** The first {@code count} tokens. */
    TokenSequence head(int count) {
        List<Span> kept = new ArrayList<Span>();
        for (Span span : media) {
            if (span.start < count) {
                kept.add(span);
            }
        }
        return new TokenSequence(Arrays.copyOf(ids, count), Arrays.copyOf(places, count), kept);
    }

    /** One more token of text. */
    TokenSequence with(int token) {
        int[] longer = Arrays.copyOf(ids, ids.length + 1);
        longer[ids.length] = token;
        return new TokenSequence(longer, Arrays.copyOf(places, ids.length + 1), media);
    }

    /** Tokens that both begin with, images and sounds compared by their keys. */
    int commonWith(TokenSequence other) {
        int common = 0;
        int length = Math.min(ids.length, other.ids.length);
        while (common < length && ids[common] == other.ids[common] && places[common] == other.places[common]) {
            common++;
        }
        for (int i = 0; i < Math.min(media.size(), other.media.size()); i++) {
            if (!media.get(i).key.equals(other.media.get(i).key)) {
                return Math.min(common, media.get(i).start);
            }
        }
        return common;
    }
}
