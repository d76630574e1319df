import java.io.File;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.List;
import org.palmtop.app.logic.Attachment;
import org.palmtop.app.logic.ChatState.Phase;
import org.palmtop.app.logic.Offers;
import org.palmtop.app.logic.SoundDecoder;
import org.palmtop.app.logic.SoundImport;
import org.palmtop.app.logic.Trouble;
import org.palmtop.app.logic.Wav;
import org.palmtop.app.logic.WavWriter;
import org.palmtop.core.media.PcmSource;

/** Sounds and pictures on their way into a message. */
public final class SoundTest {
    private static final long PLENTY = 1L << 40;
    private static final int LIMIT = 600;

    /** Gives the blocks it was made of. */
    private static final class FakeDecoder implements SoundDecoder {
        final List<Block> blocks = new ArrayList<Block>();
        double statedSeconds;
        IOException openError;
        IOException endError;
        int opened;
        int closed;
        int given;

        FakeDecoder add(int rateHz, int channels, int... samples) {
            short[] values = new short[samples.length];
            for (int i = 0; i < values.length; i++) {
                values[i] = (short) samples[i];
            }
            blocks.add(new Block(rateHz, channels, values));
            return this;
        }

        @Override
        public Stream open(File file) throws IOException {
            if (openError != null) {
                throw openError;
            }
            opened++;
            final Iterator<Block> left = blocks.iterator();
            return new Stream() {
                @Override
                public double statedSeconds() {
                    return statedSeconds;
                }

                @Override
                public Block next() throws IOException {
                    if (!left.hasNext() && endError != null) {
                        throw endError;
                    }
                    given++;
                    return left.hasNext() ? left.next() : null;
                }

                @Override
                public void close() {
                    closed++;
                }
            };
        }
    }

    private final File folder = Check.folder();
    private final FakeDecoder decoder = new FakeDecoder();

    private File file() throws IOException {
        File file = new File(folder, "sound-1");
        Check.write(file, "ID3 and so on, for the decoder alone".getBytes("UTF-8"));
        return file;
    }

    private Attachment take() throws IOException {
        return new SoundImport(decoder).take(file(), LIMIT, PLENTY);
    }

    private Throwable refusal(long freeBytes) throws IOException {
        try {
            new SoundImport(decoder).take(file(), LIMIT, freeBytes);
        } catch (IOException error) {
            Check.same(0, folder.list().length);
            Check.same(decoder.opened, decoder.closed);
            return error;
        }
        throw new AssertionError("taken");
    }

    private static List<Long> samples(Attachment sound) throws IOException {
        PcmSource source = new Wav(new File(sound.path)).open();
        float[] values = new float[(int) source.length()];
        source.read(0, values, values.length);
        List<Long> found = new ArrayList<Long>();
        for (float value : values) {
            found.add((long) (value * 32768));
        }
        return found;
    }

    public void channelsAreAveragedAndBlocksFollowEachOther() throws IOException {
        decoder.add(1000, 2, 100, 200, -3, -4).add(1000, 2).add(1000, 1, 7).add(1000, 3, 32767, 32767, 32767);
        for (int i = 0; i < 6; i++) {
            decoder.add(1000, 2, -32768, -32768);
        }
        Attachment sound = take();
        List<Long> found = samples(sound);
        Check.same(Arrays.asList(150L, -3L, 7L, 32767L, -32768L), found.subList(0, 5));
        Check.same(10, found.size());
        Check.same(0.01, sound.seconds);
        Check.same("[sound-1.wav]", Arrays.toString(folder.list()));
        Check.same(1, decoder.closed);
    }

    public void aWavFileIsNotDecoded() throws IOException {
        File file = new File(folder, "named.mp3");
        try (WavWriter writer = new WavWriter(file, 8000)) {
            writer.write(new short[4000], 4000);
        }
        Attachment sound = new SoundImport(decoder).take(file, LIMIT, PLENTY);
        Check.same(file.getPath(), sound.path);
        Check.same(0.5, sound.seconds);
        Check.same(0, decoder.opened);
    }

    public void aSoundThatIsTooLongIsRefusedBeforeItIsDecoded() throws IOException {
        decoder.statedSeconds = 3725;
        Throwable error = refusal(PLENTY);
        Check.same(Trouble.SOUND_TOO_LONG, Trouble.of(error));
        Check.same("62:05, at most 10:00", Trouble.detail(error));
        Check.same(0, decoder.given);
    }

    public void aSoundThatStatesNoLengthIsDecodedUpToTheLimit() throws IOException {
        for (int second = 0; second < 2 * LIMIT; second++) {
            decoder.blocks.add(new SoundDecoder.Block(100, 1, new short[100]));
        }
        Check.same(Trouble.SOUND_TOO_LONG, Trouble.of(refusal(PLENTY)));
        Check.same(LIMIT + 1, decoder.given);
    }

    public void aWavFileThatIsTooLongIsRefused() throws IOException {
        File file = new File(folder, "long");
        try (WavWriter writer = new WavWriter(file, 100)) {
            writer.write(new short[100 * LIMIT + 100], 100 * LIMIT + 100);
        }
        try {
            new SoundImport(decoder).take(file, LIMIT, PLENTY);
            throw new AssertionError("taken");
        } catch (SoundImport.TooLong error) {
            Check.same(0, folder.list().length);
        }
    }

    public void damagedForeignAndEmptySoundsSayWhyAndLeaveNothing() throws IOException {
        decoder.openError = new IOException("there is no sound in it, expected one that this phone can play");
        Throwable error = refusal(PLENTY);
        Check.same(Trouble.UNREADABLE, Trouble.of(error));
        Check.that(Trouble.detail(error).contains("no sound in it"), Trouble.detail(error));
        decoder.openError = null;
        Check.that(refusal(PLENTY).getMessage().contains("no samples"), "an empty one");
        decoder.add(1000, 1, 1, 2, 3);
        decoder.endError = new IOException("the sound is damaged");
        Check.that(refusal(PLENTY).getMessage().contains("damaged"), "a damaged one"); // half of it is not taken for it
        decoder.endError = null;
        decoder.add(2000, 1, 1);
        Check.same("its rate changes from 1000 to 2000 Hz at 0.00 s, expected one rate", refusal(PLENTY).getMessage());
    }

    public void anEmptyFileIsNoSound() throws IOException {
        File file = new File(folder, "sound-1");
        Check.write(file, new byte[0]);
        try {
            new SoundImport(decoder).take(file, LIMIT, PLENTY);
            throw new AssertionError("taken");
        } catch (IOException error) {
            Check.that(error.getMessage().contains("empty"), error);
            Check.same(0, decoder.opened);
        }
    }

    public void aSoundThatWouldFillThePhoneIsRefused() throws IOException {
        decoder.blocks.add(new SoundDecoder.Block(16000, 1, new short[16000]));
        Throwable error = refusal((64L << 20) + 20_000);
        Check.same(Trouble.STORAGE_FULL, Trouble.of(error));
        Check.that(take() != null, "with room it is taken");
    }

    /** The samples that Python's decoders gave for files of several kinds: {@code name.pcm} beside what they are of. */
    public void realSoundsAreDecodedToWhatPythonReads() throws IOException {
        File[] files = new File(System.getProperty("sounds")).listFiles();
        int count = 0;
        for (File pcm : files) {
            if (!pcm.getName().endsWith(".pcm")) {
                continue;
            }
            final ByteBuffer bytes = ByteBuffer.wrap(Check.bytes(pcm)).order(ByteOrder.LITTLE_ENDIAN);
            final int rateHz = bytes.getInt();
            final int channels = bytes.getInt();
            SoundDecoder real = new SoundDecoder() {
                @Override
                public Stream open(File file) throws IOException {
                    return new Stream() {
                        @Override
                        public double statedSeconds() {
                            return 0;
                        }

                        @Override
                        public Block next() {
                            int count = Math.min(1024 * channels, bytes.remaining() / 2);
                            short[] samples = new short[count];
                            bytes.asShortBuffer().get(samples);
                            bytes.position(bytes.position() + 2 * count);
                            return count == 0 ? null : new Block(rateHz, channels, samples);
                        }

                        @Override
                        public void close() {}
                    };
                }
            };
            String name = pcm.getName().substring(0, pcm.getName().length() - ".pcm".length());
            File sound = new File(folder, name);
            Check.copy(new File(pcm.getParentFile(), name), sound);
            Attachment taken = new SoundImport(real).take(sound, LIMIT, PLENTY);
            Check.copy(new File(taken.path), new File(pcm.getParentFile(), name + ".taken"));
            count++;
        }
        Check.that(count > 0, Arrays.toString(files));
    }

    // What is shared and picked

    private static final class Outcome implements Offers.Listener {
        int count;
        Trouble refusal;
        String detail;

        @Override
        public void onOutcome(Attachment attachment, Trouble why, String words) {
            count++;
            refusal = why;
            detail = words;
        }
    }

    public void whatIsSharedWaitsUntilTheModelIsOpen() {
        Phone phone = new Phone();
        Offers offers = new Offers(phone.chat);
        Outcome outcome = new Outcome();
        phone.chat.prepare("reference", 0);
        offers.add(Attachment.image("/a.png", 40, 30), outcome);
        Check.same(0, outcome.count);
        phone.chat.open(Check.bundle(), "reference");
        phone.settle();
        Check.same(1, outcome.count);
        Check.same(null, outcome.refusal);
        Check.same(1, phone.chat.state().attached.size());
        phone.chat.sleep();
        phone.settle();
        offers.add(Attachment.audio("/a.wav", 3), outcome);
        Check.same(1, outcome.count);
        phone.chat.wake();
        phone.settle();
        Check.same(2, phone.chat.state().attached.size());
    }

    public void withoutAModelAnOfferIsRefusedInWords() {
        Phone phone = new Phone();
        Offers offers = new Offers(phone.chat);
        Outcome outcome = new Outcome();
        phone.chat.prepare("reference", 0);
        offers.add(Attachment.image("/a.png", 40, 30), outcome);
        phone.chat.refuse(new FileNotFoundException("x"));
        Check.same(Trouble.MODEL_MISSING, outcome.refusal);
        Check.same(1, outcome.count);
    }

    public void aSoundLongerThanTheModelListensIsRefused() {
        Phone phone = Phone.ready();
        Offers offers = new Offers(phone.chat);
        Outcome outcome = new Outcome();
        int limit = offers.limitSeconds();
        Check.that(limit > 5 && limit < 1800, limit);
        offers.add(Attachment.audio("/a.wav", limit + 1), outcome);
        Check.same(Trouble.SOUND_TOO_LONG, outcome.refusal);
        Check.that(outcome.detail.contains("at most"), outcome.detail);
        offers.add(Attachment.audio("/a.wav", limit), outcome);
        Check.same(null, outcome.refusal);
        phone.chat.closeModel();
        Check.same(1800, offers.limitSeconds());
    }

    public void anOfferInMidAnswerGoesWithTheNextMessage() {
        Phone phone = Phone.ready();
        Offers offers = new Offers(phone.chat);
        Outcome outcome = new Outcome();
        phone.sendAndHold("What?");
        offers.add(Attachment.image("/a.png", 40, 30), outcome);
        Check.same(null, outcome.refusal);
        phone.engine.gate.countDown();
        phone.settle();
        Check.same(1, phone.chat.state().attached.size());
        Check.same(Phase.READY, phone.chat.state().phase);
    }

    public void theScreenHearsThatAFileIsRead() {
        Phone phone = Phone.ready();
        Offers offers = new Offers(phone.chat);
        offers.readingBegins();
        offers.readingBegins();
        offers.readingEnds();
        Check.that(offers.isReading(), "one of two");
        offers.readingEnds();
        Check.that(!offers.isReading(), "none");
    }

    public void kindsAreThoseOfMimeTypes() {
        Check.same(Attachment.Kind.IMAGE, Attachment.Kind.of("image/heic"));
        Check.same(Attachment.Kind.AUDIO, Attachment.Kind.of("audio/mp4"));
        Check.same(Attachment.Kind.AUDIO, Attachment.Kind.of("application/ogg"));
        Check.same(null, Attachment.Kind.of("text/plain"));
        Check.same(null, Attachment.Kind.of(null));
    }
}
