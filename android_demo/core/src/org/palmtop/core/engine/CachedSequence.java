package org.palmtop.core.engine;

import java.nio.FloatBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.palmtop.core.PalmtopException;

/**
 * The token sequence in a decoder's KV cache, and its change to another sequence with the least work
 * ({@code runtime/decoding/cached_sequence.py}).
 *
 * <p>The invariant: the cache holds exactly the sequence {@code held}, computed under the gates and the rope factors
 * that are set now. Every token goes through {@code append}.
 */
final class CachedSequence {
    /** Factory of the decoder; called again after a native failure. */
    interface Opener {
        Decoder open();
    }

    /** Cancellation and progress of reading. */
    interface Watch {
        boolean isCancelled();

        void onRead(int done, int total);
    }

    /** Writes the features of the n-th span of a passage. */
    interface Features {
        void write(int number, FloatBuffer into);
    }

    /** A request to stop between two steps; the cached sequence stays usable. */
    static final class Cancelled extends RuntimeException {
        private static final long serialVersionUID = 1L;

        Cancelled() {
            super("cancelled");
        }
    }

    private final Opener opener;
    private final int context;
    private final Integer originalContext;
    private final int chunk;
    private final int hiddenSize;
    private Decoder decoder;
    private TokenSequence held = TokenSequence.NOTHING;
    private final List<String> rowsOf = new ArrayList<String>();
    /** Tokens of the sequence that were in the cache already, and why earlier ones were dropped, in the last call. */
    int common;
    String reprefilled;

    CachedSequence(Opener opener, int context, Integer originalContext, int chunk, int hiddenSize) {
        this.opener = opener;
        this.context = context;
        this.originalContext = originalContext;
        this.chunk = chunk;
        this.hiddenSize = hiddenSize;
    }

    /** Token sequence in the cache. */
    int[] ids() {
        return held.ids;
    }

    /** Tokens that still fit. */
    int room() {
        return context - held.length();
    }

    /** Write the features of a sequence's media into the graph's array; only missing ones are encoded. */
    void writeMedia(TokenSequence passage, Features features) {
        int needed = passage.mediaRows();
        DecoderInputs inputs = ready().inputs();
        if (needed > inputs.mediaRows) {
            throw PalmtopException.input("the conversation's images and sounds take " + needed
                    + " rows of features, this session has " + inputs.mediaRows
                    + " places; load with media_rows=" + needed + " or drop older media");
        }
        int row = 0;
        boolean isSame = true;
        for (int number = 0; number < passage.media.size(); number++) {
            TokenSequence.Span span = passage.media.get(number);
            isSame = isSame && number < rowsOf.size() && rowsOf.get(number).equals(span.key);
            if (!isSame) {
                rowsOf.subList(Math.min(number, rowsOf.size()), rowsOf.size()).clear();
                FloatBuffer all = inputs.mediaFeatures.asFloatBuffer();
                all.position(row * hiddenSize);
                all.limit((row + span.rows) * hiddenSize);
                features.write(number, all.slice());
                rowsOf.add(span.key);
            }
            row += span.rows;
        }
    }

    /** Make the cache hold exactly this passage. */
    void prefill(TokenSequence passage, float[] gates, Watch watch) {
        Decoder ready = ready();
        reprefilled = setSwitches(ready, gates, passage.length());
        common = Math.min(held.commonWith(passage), passage.length() - 1);
        read(passage, common, watch);
    }

    /** Append one sampled token; across the LongRoPE boundary this reads the whole sequence again, and says "rope". */
    String step(int token, Watch watch) {
        Decoder ready = ready();
        TokenSequence longer = held.with(token);
        String reason = setSwitches(ready, ready.inputs().gates(), longer.length());
        read(longer, held.length(), watch);
        return reason;
    }

    /** After the last token, [V]. */
    float[] logits() {
        float[] logits = ready().logits();
        for (float logit : logits) {
            if (Float.isNaN(logit) || Float.isInfinite(logit)) {
                throw PalmtopException.bundle("the decoder's logits are not finite: an adapter weight is too large, "
                        + "or weights are damaged");
            }
        }
        return logits;
    }

    /** Free the decoder; the next use opens another. */
    void close() {
        Decoder closing = decoder;
        decoder = null;
        held = TokenSequence.NOTHING;
        rowsOf.clear();
        if (closing != null) {
            closing.close();
        }
    }

    private Decoder ready() {
        if (decoder == null) {
            decoder = opener.open();
        }
        return decoder;
    }

    /** Set gates and rope factors for this length; why what was held is void now, or null. */
    private String setSwitches(Decoder ready, float[] gates, int length) {
        DecoderInputs inputs = ready.inputs();
        boolean isLong = originalContext != null && length > originalContext;
        String reason = inputs.ropeLong != null && inputs.isRopeLong() != isLong ? "rope" : null;
        reason = inputs.hasGates(gates) ? reason : "adapters";
        if (reason == null) {
            return null;
        }
        boolean hadTokens = held.length() > 0;
        if (hadTokens) {
            held = TokenSequence.NOTHING;
            ready.rewindTo(0);
        }
        if (inputs.ropeLong != null) {
            inputs.ropeLong.put(0, (byte) (isLong ? 1 : 0));
        }
        inputs.setGates(gates);
        return hadTokens ? reason : null;
    }

    /** Rewind to {@code from} and append the rest in chunks. */
    private void read(TokenSequence passage, int from, Watch watch) {
        Decoder ready = ready();
        try {
            if (ready.tokenCount() != from) {
                ready.rewindTo(from);
            }
            DecoderInputs inputs = ready.inputs();
            for (int i = from; inputs.mediaIndex != null && i < passage.length(); i++) {
                inputs.mediaIndex.putLong(8 * i, passage.places[i]);
            }
            for (int start = from; start < passage.length(); start += chunk) {
                if (watch.isCancelled()) {
                    throw new Cancelled();
                }
                int stop = Math.min(start + chunk, passage.length());
                ready.append(Arrays.copyOfRange(passage.ids, start, stop));
                watch.onRead(stop - from, passage.length() - from);
            }
            held = passage;
        } catch (Cancelled stopped) {
            held = passage.head(ready.tokenCount());
            throw stopped;
        } catch (RuntimeException error) {
            close(); // tokens may be in the sequence without keys and values
            throw error;
        }
    }
}
