package org.palmtop.app.logic;

import java.io.Closeable;
import java.io.File;
import java.io.IOException;

/** Decoder of compressed sounds, such as m4a, ogg and mp3: the phone brings one, tests bring another. */
public interface SoundDecoder {
    /**
     * Begin to decode a file.
     *
     * @throws IOException there is no sound in it, or one that the decoder does not know.
     */
    Stream open(File file) throws IOException;

    /** One sound while it is decoded, from its start to its end. */
    interface Stream extends Closeable {
        /** Length that the file states, in seconds; 0 where it states none. */
        double statedSeconds();

        /**
         * The next samples; null after the last. Blocks.
         *
         * @throws IOException the file is damaged.
         */
        Block next() throws IOException;
    }

    /** Samples that follow each other. */
    final class Block {
        public final int rateHz;
        public final int channels;
        /** 16-bit samples, the channels of one moment beside each other. */
        public final short[] samples;

        public Block(int rateHz, int channels, short[] samples) {
            this.rateHz = rateHz;
            this.channels = channels;
            this.samples = samples;
        }
    }
}
