package org.palmtop.app.logic;

import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import org.palmtop.core.DecimalText;

/** Makes a recording from the file of a sound: a WAV file stays as it is, others are decoded to one, channels averaged. */
public final class SoundImport {
    private static final int HEADER_BYTES = 12;
    private static final String WAV = ".wav";

    private final SoundDecoder decoder;

    public SoundImport(SoundDecoder decoder) {
        this.decoder = decoder;
    }

    /** A sound that takes longer than may be. */
    public static final class TooLong extends IOException {
        private static final long serialVersionUID = 1L;

        TooLong(double seconds, int limitSeconds) {
            super(Sizes.clock(seconds) + ", at most " + Sizes.clock(limitSeconds));
        }
    }

    /**
     * Take a file of the app's own. Whatever is thrown, nothing of it is left.
     *
     * @param limitSeconds longest sound.
     * @param freeBytes room on the phone; some of it stays free.
     * @throws TooLong it lasts longer.
     * @throws Trouble.OutOfStorage decoded, it would fill the phone.
     * @throws IOException it cannot be decoded.
     */
    public Attachment take(File file, int limitSeconds, long freeBytes) throws IOException {
        File wav = file;
        boolean isTaken = false;
        try {
            if (!isWav(file)) {
                wav = new File(file.getPath() + WAV);
                decode(file, wav, limitSeconds, freeBytes);
                file.delete();
            }
            double seconds = Wav.seconds(wav);
            checkLength(seconds, limitSeconds);
            isTaken = true;
            return Attachment.audio(wav.getPath(), seconds);
        } finally {
            if (!isTaken) {
                file.delete();
                wav.delete();
            }
        }
    }

    private void decode(File file, File wav, int limitSeconds, long freeBytes) throws IOException {
        try (SoundDecoder.Stream sound = decoder.open(file)) {
            checkLength(sound.statedSeconds(), limitSeconds);
            SoundDecoder.Block block = nextWithSamples(sound);
            if (block == null) {
                throw new IOException("there are no samples in it, expected a sound");
            }
            int rateHz = block.rateHz;
            long room = freeBytes - BundleImport.SPARE_BYTES;
            try (WavWriter writer = new WavWriter(wav, rateHz)) {
                for (; block != null; block = nextWithSamples(sound)) {
                    if (block.rateHz != rateHz) {
                        throw new IOException("its rate changes from " + rateHz + " to " + block.rateHz + " Hz at "
                                + DecimalText.fixed(writer.seconds(), 2) + " s, expected one rate");
                    }
                    short[] mono = mono(block);
                    room -= 2L * mono.length;
                    if (room < 0) {
                        throw new Trouble.OutOfStorage(BundleImport.SPARE_BYTES - room, freeBytes);
                    }
                    writer.write(mono, mono.length);
                    checkLength(writer.seconds(), limitSeconds);
                }
            }
        }
    }

    private static SoundDecoder.Block nextWithSamples(SoundDecoder.Stream sound) throws IOException {
        SoundDecoder.Block block = sound.next();
        while (block != null && block.samples.length < block.channels) {
            block = sound.next();
        }
        return block;
    }

    /** Mean of the channels, rounded to the nearest. */
    private static short[] mono(SoundDecoder.Block block) {
        if (block.channels == 1) {
            return block.samples;
        }
        short[] mono = new short[block.samples.length / block.channels];
        for (int i = 0; i < mono.length; i++) {
            int sum = 0;
            for (int channel = 0; channel < block.channels; channel++) {
                sum += block.samples[i * block.channels + channel];
            }
            mono[i] = (short) Math.round(sum / (double) block.channels);
        }
        return mono;
    }

    private static void checkLength(double seconds, int limitSeconds) throws TooLong {
        if (seconds > limitSeconds) {
            throw new TooLong(seconds, limitSeconds);
        }
    }

    /** By its first bytes: names and types that other apps give are not reliable. */
    private static boolean isWav(File file) throws IOException {
        byte[] header = new byte[HEADER_BYTES];
        try (InputStream stream = new FileInputStream(file)) {
            int done = 0;
            for (int count = 0; count >= 0 && done < header.length; done += Math.max(0, count)) {
                count = stream.read(header, done, header.length - done);
            }
            if (done == 0) {
                throw new IOException("the file is empty, expected a sound");
            }
        }
        String text = new String(header, "ISO-8859-1");
        return text.startsWith("RIFF") && text.endsWith("WAVE");
    }
}
