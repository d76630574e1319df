package org.palmtop.app.logic;

import java.io.File;
import org.palmtop.core.media.PcmSource;
import org.palmtop.core.media.Recording;
import org.palmtop.core.media.WavFile;

/** A recording in the app's own storage. */
public final class Wav extends Recording {
    private final File file;

    public Wav(File file) {
        super(file.getPath() + ":" + file.length() + ":" + file.lastModified());
        this.file = file;
    }

    @Override
    public PcmSource open() {
        return WavFile.open(file);
    }

    /** Length of a WAV file in seconds; throws what the core says of a file that is none. */
    public static double seconds(File file) {
        try (WavFile wav = WavFile.open(file)) {
            return wav.length() / (double) wav.rateHz();
        }
    }
}
