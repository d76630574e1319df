package org.palmtop.core.media;

import java.io.Closeable;
import java.io.File;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import org.palmtop.core.DecimalText;
import org.palmtop.core.PalmtopException;

/** A WAV file read in place; channels are averaged. 8 to 32-bit integers, 32 and 64-bit floats. */
public final class WavFile implements PcmSource, Closeable {
    private static final String EXPECTED = "expected a WAV file";
    private static final int PCM = 1;
    private static final int FLOAT = 3;
    private static final int EXTENSIBLE = 0xFFFE;
    private static final long PLACEHOLDER = 0x7F000000L;
    private static final double TOLERANCE_S = 0.1;

    private final String name;
    private final RandomAccessFile file;
    private int format;
    private int channels;
    private int rateHz;
    private int sampleBytes;
    private long dataStart = -1;
    private long length;

    public static WavFile open(File path) {
        if (path.isFile() && path.length() == 0) {
            throw PalmtopException.input(path + ": found an empty file, " + EXPECTED);
        }
        try {
            WavFile wav = new WavFile(path);
            try {
                wav.readHeader(path.length());
                return wav;
            } catch (IOException | RuntimeException error) {
                wav.close();
                throw error;
            }
        } catch (IOException error) {
            throw PalmtopException.input(path + ": cannot be read (" + error.getMessage() + "), " + EXPECTED);
        }
    }

    private WavFile(File path) throws IOException {
        name = path.toString();
        file = new RandomAccessFile(path, "r");
    }

    private void readHeader(long size) throws IOException {
        ByteBuffer riff = bytes(0, size < 12 ? 0 : 12);
        if (riff.remaining() < 12 || riff.getInt(0) != 0x46464952 || riff.getInt(8) != 0x45564157) {
            throw broken(size, "no WAV header");
        }
        long promised = -1;
        for (long at = 12; at + 8 <= size && promised < 0; ) {
            ByteBuffer head = bytes(at, 8);
            long chunk = head.getInt(4) & 0xFFFFFFFFL;
            if (head.getInt(0) == 0x20746d66 && chunk >= 16 && at + 8 + chunk <= size) { // "fmt "
                readFormat(bytes(at + 8, (int) Math.min(chunk, 40)), size);
            } else if (head.getInt(0) == 0x61746164) { // "data"
                dataStart = at + 8;
                promised = chunk;
            }
            at += 8 + chunk + (chunk & 1);
        }
        if (promised < 0 || channels == 0) {
            throw broken(size, "no samples in it");
        }
        long frame = (long) channels * sampleBytes;
        // What is there counts where no length is stated: a recorder that was killed leaves 0 or a placeholder.
        long there = size - dataStart;
        boolean isStated = promised != 0 && !(promised >= PLACEHOLDER && promised > there);
        length = (isStated ? Math.min(promised, there) : there) / frame;
        if (isStated && (promised - there) / frame > rateHz * TOLERANCE_S) {
            throw PalmtopException.input(name + ": the sound is truncated: it ends after "
                    + DecimalText.fixed((double) length / rateHz, 2) + " s, expected "
                    + DecimalText.fixed((double) (promised / frame) / rateHz, 2) + " s");
        }
    }

    private void readFormat(ByteBuffer chunk, long size) {
        format = chunk.getShort(0) & 0xFFFF;
        channels = chunk.getShort(2) & 0xFFFF;
        rateHz = chunk.getInt(4);
        sampleBytes = (chunk.getShort(14) & 0xFFFF) / 8;
        if (format == EXTENSIBLE && chunk.remaining() >= 26) {
            format = chunk.getShort(24) & 0xFFFF;
        }
        boolean isKnown = format == PCM && sampleBytes >= 1 && sampleBytes <= 4
                || format == FLOAT && (sampleBytes == 4 || sampleBytes == 8);
        if (!isKnown || channels < 1 || channels > 64) {
            throw broken(size, "format " + format + " of " + 8 * sampleBytes + " bits, " + channels + " channels");
        }
    }

    @Override
    public int rateHz() {
        return rateHz;
    }

    @Override
    public long length() {
        return length;
    }

    @Override
    public void read(long start, float[] into, int count) {
        int frame = channels * sampleBytes;
        try {
            ByteBuffer block = bytes(dataStart + start * frame, count * frame);
            for (int i = 0; i < count; i++) {
                float sum = 0;
                for (int channel = 0; channel < channels; channel++) {
                    sum += sample(block, i * frame + channel * sampleBytes);
                }
                into[i] = channels == 1 ? sum : sum / channels;
            }
        } catch (IOException error) {
            throw PalmtopException.input(name + ": cannot be read (" + error.getMessage() + ")");
        }
    }

    private float sample(ByteBuffer block, int at) {
        switch (sampleBytes) {
            case 1:
                return ((block.get(at) & 255) - 128) / 128f;
            case 2:
                return block.getShort(at) / 32768f;
            case 3:
                int whole = block.get(at + 2) << 16 | (block.get(at + 1) & 255) << 8 | block.get(at) & 255;
                return whole / 8388608f;
            case 4:
                return format == FLOAT ? block.getFloat(at) : (float) (block.getInt(at) / 2147483648.0);
            default:
                return (float) block.getDouble(at);
        }
    }

    private ByteBuffer bytes(long at, int count) throws IOException {
        byte[] content = new byte[count];
        file.seek(at);
        file.readFully(content);
        return ByteBuffer.wrap(content).order(ByteOrder.LITTLE_ENDIAN);
    }

    private PalmtopException broken(long size, String why) {
        return PalmtopException.input(name + ": " + size + " bytes cannot be decoded (" + why + "), " + EXPECTED);
    }

    @Override
    public void close() {
        try {
            file.close();
        } catch (IOException error) {
            throw PalmtopException.input(name + ": cannot be closed (" + error.getMessage() + ")");
        }
    }
}
