package org.palmtop.app.logic;

import java.io.Closeable;
import java.io.File;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/**
 * Writes a mono 16-bit WAV file while it is recorded, so that half an hour never lies in memory. The header is
 * brought up to date with every block: a recording that is cut off by a killed app can be read.
 */
public final class WavWriter implements Closeable {
    private static final int HEADER_BYTES = 44;
    private static final int BYTES_PER_SAMPLE = 2;

    private final RandomAccessFile file;
    private final int rateHz;
    private long samples;

    public WavWriter(File path, int rateHz) throws IOException {
        this.rateHz = rateHz;
        file = new RandomAccessFile(path, "rw");
        file.setLength(0);
        writeHeader();
    }

    public void write(short[] block, int count) throws IOException {
        ByteBuffer bytes = ByteBuffer.allocate(count * BYTES_PER_SAMPLE).order(ByteOrder.LITTLE_ENDIAN);
        for (int i = 0; i < count; i++) {
            bytes.putShort(block[i]);
        }
        file.seek(HEADER_BYTES + samples * BYTES_PER_SAMPLE);
        file.write(bytes.array());
        samples += count;
        writeHeader();
    }

    public double seconds() {
        return samples / (double) rateHz;
    }

    @Override
    public void close() throws IOException {
        file.close();
    }

    private void writeHeader() throws IOException {
        int dataBytes = (int) Math.min(samples * BYTES_PER_SAMPLE, Integer.MAX_VALUE - HEADER_BYTES);
        ByteBuffer header = ByteBuffer.allocate(HEADER_BYTES).order(ByteOrder.LITTLE_ENDIAN);
        header.put("RIFF".getBytes("US-ASCII")).putInt(HEADER_BYTES - 8 + dataBytes);
        header.put("WAVEfmt ".getBytes("US-ASCII")).putInt(16);
        header.putShort((short) 1).putShort((short) 1); // PCM, one channel
        header.putInt(rateHz).putInt(rateHz * BYTES_PER_SAMPLE);
        header.putShort((short) BYTES_PER_SAMPLE).putShort((short) (8 * BYTES_PER_SAMPLE));
        header.put("data".getBytes("US-ASCII")).putInt(dataBytes);
        file.seek(0);
        file.write(header.array());
    }
}
