package org.palmtop.app.logic;

import org.palmtop.core.bundle.Manifest;
import org.palmtop.core.bundle.ProcessorSpec;

/** Longest recording for the open model: a sound must fit into its context. */
public final class RecordingLimit {
    /** Kept for the question and its answer. */
    private static final int RESERVED_TOKENS = 512;
    private static final int MINIMUM_SECONDS = 5;
    /** No supported model takes more; half an hour of samples is 58 MB of storage. */
    static final int MAXIMUM_SECONDS = 30 * 60;

    private RecordingLimit() {}

    /** Whole seconds, 0 when the model does not listen. */
    public static int seconds(Manifest manifest, int contextTokens) {
        if (manifest == null || manifest.processor.audio == null) {
            return 0;
        }
        ProcessorSpec.Audio audio = manifest.processor.audio;
        double perToken = audio.hopLength * (double) audio.compressionRate * audio.downsampleRate / audio.rateHz;
        double fits = (contextTokens - RESERVED_TOKENS) * perToken;
        return (int) Math.max(MINIMUM_SECONDS, Math.min(fits, MAXIMUM_SECONDS));
    }
}
