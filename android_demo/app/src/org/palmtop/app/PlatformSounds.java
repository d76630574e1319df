package org.palmtop.app;

import android.media.AudioFormat;
import android.media.MediaCodec;
import android.media.MediaExtractor;
import android.media.MediaFormat;
import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import org.palmtop.app.logic.SoundDecoder;

/** The phone's own decoders (MediaExtractor and MediaCodec): AAC, MP3, Vorbis, Opus, FLAC, AMR and what else it knows. */
final class PlatformSounds implements SoundDecoder {
    private static final long WAIT_MICROS = 10_000;
    /** A codec that gives nothing for so long is stuck. */
    private static final long STUCK_NANOS = 20_000_000_000L;
    /** The key of API 24 that names the kind of samples; absent means 16 bits. */
    private static final String PCM_ENCODING = "pcm-encoding";

    @Override
    public Stream open(File file) throws IOException {
        MediaExtractor extractor = new MediaExtractor();
        MediaCodec codec = null;
        try {
            extractor.setDataSource(file.getPath());
            for (int track = 0; track < extractor.getTrackCount(); track++) {
                MediaFormat format = extractor.getTrackFormat(track);
                String type = format.getString(MediaFormat.KEY_MIME);
                if (type != null && type.startsWith("audio/")) {
                    extractor.selectTrack(track);
                    codec = MediaCodec.createDecoderByType(type);
                    codec.configure(format, null, null, 0);
                    codec.start();
                    return new Decoding(extractor, codec, format);
                }
            }
            throw new IOException("there is no sound in it, expected one that this phone can play");
        } catch (IOException error) {
            release(extractor, codec);
            throw error;
        } catch (RuntimeException error) { // a format that the codec does not take
            release(extractor, codec);
            throw new IOException("this phone cannot decode it (" + error + ")", error);
        }
    }

    private static void release(MediaExtractor extractor, MediaCodec codec) {
        if (codec != null) {
            codec.release();
        }
        extractor.release();
    }

    private static final class Decoding implements Stream {
        private final MediaExtractor extractor;
        private final MediaCodec codec;
        private final double statedSeconds;
        private final MediaCodec.BufferInfo info = new MediaCodec.BufferInfo();
        private MediaFormat output;
        private boolean isAllFed;
        private boolean isEnd;

        Decoding(MediaExtractor extractor, MediaCodec codec, MediaFormat format) {
            this.extractor = extractor;
            this.codec = codec;
            this.output = format;
            this.statedSeconds =
                    format.containsKey(MediaFormat.KEY_DURATION) ? format.getLong(MediaFormat.KEY_DURATION) / 1e6 : 0;
        }

        @Override
        public double statedSeconds() {
            return statedSeconds;
        }

        @Override
        public Block next() throws IOException {
            try {
                return decode();
            } catch (RuntimeException error) { // MediaCodec.CodecException, and what vendors' codecs throw
                throw new IOException("the sound is damaged (" + error + ")", error);
            }
        }

        private Block decode() throws IOException {
            long since = System.nanoTime();
            while (!isEnd) {
                feed();
                int index = codec.dequeueOutputBuffer(info, WAIT_MICROS);
                if (index == MediaCodec.INFO_OUTPUT_FORMAT_CHANGED) {
                    output = codec.getOutputFormat();
                } else if (index >= 0) {
                    isEnd = (info.flags & MediaCodec.BUFFER_FLAG_END_OF_STREAM) != 0;
                    Block block = info.size > 0 ? block(codec.getOutputBuffer(index)) : null;
                    codec.releaseOutputBuffer(index, false);
                    if (block != null) {
                        return block;
                    }
                } else if (System.nanoTime() - since > STUCK_NANOS) {
                    throw new IOException("the decoder of this phone does not answer");
                }
            }
            return null;
        }

        private void feed() {
            int index = isAllFed ? -1 : codec.dequeueInputBuffer(0);
            if (index < 0) {
                return;
            }
            int size = extractor.readSampleData(codec.getInputBuffer(index), 0);
            isAllFed = size < 0;
            if (isAllFed) {
                codec.queueInputBuffer(index, 0, 0, 0, MediaCodec.BUFFER_FLAG_END_OF_STREAM);
            } else {
                codec.queueInputBuffer(index, 0, size, extractor.getSampleTime(), 0);
                extractor.advance();
            }
        }

        /** The codec's own rate and channels count: those of the file may be of a core that is expanded (HE-AAC). */
        private Block block(ByteBuffer bytes) throws IOException {
            bytes.position(info.offset).limit(info.offset + info.size);
            bytes.order(ByteOrder.nativeOrder());
            int encoding = output.containsKey(PCM_ENCODING)
                    ? output.getInteger(PCM_ENCODING)
                    : AudioFormat.ENCODING_PCM_16BIT;
            short[] samples;
            if (encoding == AudioFormat.ENCODING_PCM_16BIT) {
                samples = new short[info.size / 2];
                bytes.asShortBuffer().get(samples);
            } else if (encoding == AudioFormat.ENCODING_PCM_FLOAT) {
                samples = new short[info.size / 4];
                for (int i = 0; i < samples.length; i++) {
                    float value = bytes.getFloat() * 32768f;
                    samples[i] = (short) Math.max(Short.MIN_VALUE, Math.min(Math.round(value), Short.MAX_VALUE));
                }
            } else {
                throw new IOException("the decoder gives samples of kind " + encoding + ", expected 16 bits or floats");
            }
            return new Block(
                    output.getInteger(MediaFormat.KEY_SAMPLE_RATE),
                    output.getInteger(MediaFormat.KEY_CHANNEL_COUNT),
                    samples);
        }

        @Override
        public void close() {
            release(extractor, codec);
        }
    }
}
