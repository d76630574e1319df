package org.palmtop.app.logic;

import java.io.File;
import java.io.IOException;

/** Start of the app's process: the packaged model is unpacked once, then the chosen one is opened. */
public final class Starter {
    private static final int MAX_MARK_BYTES = 1 << 16;

    private final Chat chat;
    private final ModelShelf shelf;
    private final BundleImport copier;
    private final BundleImport.Source packaged;
    private final String name;
    private final File mark;

    /**
     * @param packaged the model inside the app.
     * @param name its folder's name on the phone.
     * @param mark file that remembers which packaged model was unpacked: one that the user deleted stays deleted, and
     *     an updated app unpacks its new one.
     */
    public Starter(
            Chat chat, ModelShelf shelf, BundleImport copier, BundleImport.Source packaged, String name, File mark) {
        this.chat = chat;
        this.shelf = shelf;
        this.copier = copier;
        this.packaged = packaged;
        this.name = name;
        this.mark = mark;
    }

    /** Blocks; for a worker thread. {@code version} is the app's: a new one looks at its packaged model again. */
    public void run(String version) {
        shelf.sweep();
        try {
            if (!version.equals(marked())) {
                unpack();
                TextFile.write(mark, version);
            }
            File folder = shelf.chosen();
            if (folder != null) {
                chat.open(folder, folder.getName());
            } else {
                chat.closeModel();
            }
        } catch (IOException error) {
            openAnother(error);
        } catch (RuntimeException error) {
            openAnother(error);
        }
    }

    private void unpack() throws IOException {
        chat.prepare(name, 0);
        File old = new File(shelf.home(), name);
        if (old.isDirectory()) {
            shelf.delete(old);
        }
        copier.run(packaged, name, new BundleImport.Progress() {
            @Override
            public void onBytes(long done, long total) {
                chat.prepare(name, total == 0 ? 0 : done / (double) total);
            }
        });
    }

    /** Without room for the packaged model there may still be one that was imported. */
    private void openAnother(Exception error) {
        File folder = shelf.chosen();
        if (folder != null) {
            chat.open(folder, folder.getName());
        } else {
            chat.refuse(error);
        }
    }

    private String marked() {
        try {
            return TextFile.read(mark, MAX_MARK_BYTES);
        } catch (IOException error) {
            return ""; // the first start
        }
    }
}
