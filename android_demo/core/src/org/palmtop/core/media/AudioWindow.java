package org.palmtop.core.media;

import java.util.ArrayList;
import java.util.List;
import org.palmtop.core.bundle.ProcessorSpec;

/** One run of the audio graph over a long sound; the rules of {@code runtime/processor/sounds/audio_windows.py}. */
public final class AudioWindow {
    /** First mel frame to feed, and one past the last. */
    public final int start;
    public final int stop;
    /** Encoder steps at the front that are there for the convolution alone and are dropped. */
    public final int leftContext;
    /** Steps to fill up to with zeros; 0 for none. */
    public final int fillTo;

    private AudioWindow(int start, int stop, int leftContext, int fillTo) {
        this.start = start;
        this.stop = stop;
        this.leftContext = leftContext;
        this.fillTo = fillTo;
    }

    /** The windows of a sound of that many frames. */
    public static List<AudioWindow> cut(int frames, ProcessorSpec.Audio spec) {
        int rate = spec.compressionRate;
        int length = rate * spec.windowSteps;
        List<AudioWindow> windows = new ArrayList<AudioWindow>();
        if (frames <= length) {
            windows.add(new AudioWindow(0, frames, 0, 0));
            return windows;
        }
        for (int first = 0; first < frames; first += length) {
            windows.add(new AudioWindow(
                    Math.max(first - rate, 0),
                    Math.min(first + length, frames),
                    first > 0 ? 1 : 0,
                    spec.windowSteps));
        }
        return windows;
    }
}
