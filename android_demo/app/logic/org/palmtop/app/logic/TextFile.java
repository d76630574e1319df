package org.palmtop.app.logic;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.Charset;

/** Small UTF-8 files, whole or not at all. */
final class TextFile {
    private static final Charset UTF_8 = Charset.forName("UTF-8");
    private static final int BLOCK_BYTES = 1 << 16;

    private TextFile() {}

    static String read(InputStream stream, int limitBytes) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        byte[] block = new byte[BLOCK_BYTES];
        for (int count = stream.read(block); count >= 0; count = stream.read(block)) {
            bytes.write(block, 0, count);
            if (bytes.size() > limitBytes) {
                throw new IOException("file is longer than " + limitBytes + " bytes");
            }
        }
        return new String(bytes.toByteArray(), UTF_8);
    }

    static String read(File file, int limitBytes) throws IOException {
        try (InputStream stream = new FileInputStream(file)) {
            return read(stream, limitBytes);
        }
    }

    /** Written beside and renamed: a killed app leaves the old file. */
    static void write(File file, String text) throws IOException {
        File beside = new File(file.getPath() + ".new");
        try (FileOutputStream stream = new FileOutputStream(beside)) {
            stream.write(text.getBytes(UTF_8));
            stream.getFD().sync();
        }
        if (!beside.renameTo(file)) {
            beside.delete();
            throw new IOException(file.getName() + " cannot be replaced");
        }
    }
}
